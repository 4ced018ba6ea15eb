// torch's parallel_for in threads that ThreadSanitizer knows: `make sanitize` loads it before torch, whose own loops,
// in a library that is not instrumented, would hide what orders two threads and so bring reports of races that are
// none. Every loop is cut into kThreads shares, however small it is.

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kThreads = 4;
thread_local bool inside = false;

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
