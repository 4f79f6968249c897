tailor_add_test(distributed mesh tailor::distributed)
tailor_add_test(distributed thread_group tailor::distributed)
target_sources(distributed_thread_group_test PRIVATE distributed/group_cases.cpp)
if(TAILOR_MPI)
  tailor_add_mpi_test(distributed mpi_group "1;2;3" tailor::distributed)
  target_sources(distributed_mpi_group_test PRIVATE distributed/group_cases.cpp)
  add_executable(distributed_mpi_fault distributed/mpi_fault.cpp)
  target_link_libraries(distributed_mpi_fault PRIVATE tailor::distributed)
  tailor_warnings(distributed_mpi_fault)
  add_test(NAME distributed/mpi_fault
           COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/distributed/mpi_fault_test.py
                   $<TARGET_FILE:distributed_mpi_fault> ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} 3)
  set_tests_properties(distributed/mpi_fault PROPERTIES TIMEOUT 240 PROCESSORS 3 LABELS "distributed;mpi"
                       ENVIRONMENT "${TAILOR_MPI_ENVIRONMENT}")
endif()
if(TAILOR_MPI AND TAILOR_NCCL)
  tailor_add_mpi_test(distributed nccl_group "1;2" tailor::distributed c10_cuda -Wl,--no-as-needed torch_cuda)
  set_tests_properties(distributed/nccl_group@1 distributed/nccl_group@2 PROPERTIES LABELS "distributed;nccl;cuda"
                       RESOURCE_LOCK gpu)
endif()
