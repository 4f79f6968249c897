// Tells ThreadSanitizer what orders the threads of an OpenMP region. GCC's libgomp is not
// instrumented: without this every value that a region reads or leaves looks like a race. Linked
// into a program, this GOMP_parallel stands before that of libgomp, for libtorch too. Tasks, and
// barriers and critical sections inside a region, remain unseen; Tailor's regions have none.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

namespace {

using Body = void (*)(void*);
using Parallel = void (*)(Body, void*, unsigned, unsigned);

struct Region {
  Body body;
  void* data;
  char begin = 0, end = 0;  // their addresses stand for the two moments
};

void run_body(void* argument) {
  auto* region = static_cast<Region*>(argument);
  __tsan_acquire(&region->begin);
  region->body(region->data);
  __tsan_release(&region->end);
}

}  // namespace

// What g++ calls for `#pragma omp parallel`: the body runs on every thread of the team.
extern "C" void GOMP_parallel(Body body, void* data, unsigned num_threads, unsigned flags) {
  static const auto libgomp = reinterpret_cast<Parallel>(dlsym(RTLD_NEXT, "GOMP_parallel"));
  Region region{body, data};
  __tsan_release(&region.begin);
  libgomp(run_body, &region, num_threads, flags);
  __tsan_acquire(&region.end);
}
