tailor_add_test(models matvec tailor::kernels)
