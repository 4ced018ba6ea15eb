// torch's parallel_for in threads that ThreadSanitizer knows: `make sanitize` loads it before torch, whose own loops,
// in a library that is not instrumented, would hide what orders two threads and so bring reports of races that are
// none. Every loop is cut into kThreads shares, however small it is.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kThreads = 4;
thread_local bool inside = false;
std::atomic<int64_t> loops = 0;

}  // namespace

extern "C" __attribute__((visibility("default"))) int32_t torch_parallel_for(int64_t begin, int64_t end,
                                                                             int64_t /*grain_size*/,
                                                                             void (*body)(int64_t, int64_t, void*),
                                                                             void* context) {
  if (begin >= end) {
    return 0;
  }
  if (inside || end - begin == 1) {
    body(begin, end, context);
    return 0;
  }
  ++loops;
  const int64_t share = (end - begin + kThreads - 1) / kThreads;
  std::vector<std::thread> threads;
  for (int64_t first = begin; first < end; first += share) {
    threads.emplace_back([=] {
      inside = true;
      body(first, std::min(end, first + share), context);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return 0;
}

// How many loops ran in threads of this file.
extern "C" __attribute__((visibility("default"))) int64_t loops_in_threads() { return loops; }

// A race, which must be found.
extern "C" __attribute__((visibility("default"))) int64_t race() {
  int64_t shared = 0;
  torch_parallel_for(
      0, 1000, 1, [](int64_t begin, int64_t, void* context) { *static_cast<int64_t*>(context) += begin; }, &shared);
  return shared;
}
