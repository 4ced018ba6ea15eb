// Threads of a block are fibers that run one after the other and change over where they wait for each other. A fiber
// that finishes its thread takes the next one, so kernels without barriers need no change at all.
#include "emulator/emulator.h"

#include <csetjmp>
#include <ucontext.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

#include "emulator/fault.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

Position position;
int threads_of_a_block = 0, filling_blocks = 0, most_blocks = 1 << 30;
bool wide_index = false;

namespace {

constexpr size_t kStack = 256 * 1024;

enum class State { ready, at_barrier, at_exchange, done };

struct Thread {
  uint3 index;
  State state = State::ready;
  std::map<unsigned, uint64_t> meetings;  // how many exchanges of each mask it has come to
  const char* file = nullptr;             // the barrier it waits at
  int line = 0;
};

struct Exchange {
  uint64_t values[2][32];
  uint64_t came[32] = {};
  unsigned lanes[2] = {};
};

// AddressSanitizer is told of every change of stacks: it takes what lies on another stack for an error otherwise.
#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
size_t scheduler_size = 0;

void change_over(ucontext_t& from, ucontext_t& to, const void* stack, size_t size) {
  void* frames = nullptr;
  __sanitizer_start_switch_fiber(&frames, stack, size);
  swapcontext(&from, &to);
  __sanitizer_finish_switch_fiber(frames, nullptr, nullptr);
}

void enter_fiber() { __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size); }

void clear_stack(void* stack, size_t size) { __asan_unpoison_memory_region(stack, size); }
#else
constexpr const void* scheduler_stack = nullptr;
constexpr size_t scheduler_size = 0;

void change_over(ucontext_t& from, ucontext_t& to, const void*, size_t) { swapcontext(&from, &to); }

void enter_fiber() {}

void clear_stack(void*, size_t) {}
#endif

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack;
  int thread = -1;
};

// The block that runs now.
struct Block {
  const std::function<void()>* body;
  std::vector<Thread> threads;
  std::vector<int> waiting_to_start;  // last first
  std::vector<std::map<unsigned, Exchange>> warps;
  std::vector<std::unique_ptr<Fiber>> fibers, idle;
  std::vector<unsigned char> shared;
  ucontext_t scheduler;
  Fiber* current = nullptr;
  std::string error;
  const char* kernel = "";
};
Block* block = nullptr;

std::string where() {
  const Position& p = position;
  return std::string(block->kernel) + ", block " + std::to_string(p.block.x) + " of " + std::to_string(p.blocks.x) +
         ", thread (" + std::to_string(p.thread.x) + ", " + std::to_string(p.thread.y) + ") of (" +
         std::to_string(p.threads.x) + ", " + std::to_string(p.threads.y) + "): ";
}

void to_scheduler() { change_over(block->current->context, block->scheduler, scheduler_stack, scheduler_size); }

int running() { return block->current->thread; }

void wait(State state) {
  Thread& thread = block->threads[running()];
  thread.state = state;
  to_scheduler();
  position.thread = thread.index;
}

// A fiber: thread after thread, until none is left to start.
void run_threads() {
  enter_fiber();
  Fiber* self = block->current;
  while (!block->waiting_to_start.empty()) {
    self->thread = block->waiting_to_start.back();
    block->waiting_to_start.pop_back();
    Thread& thread = block->threads[self->thread];
    position.thread = thread.index;
    try {
      (*block->body)();
    } catch (const Error& error) {
      block->error = error.what();
      to_scheduler();
    }
    thread.state = State::done;
  }
  self->thread = -1;
  to_scheduler();
}

Fiber* new_fiber() {
  std::unique_ptr<Fiber> fiber;
  if (block->idle.empty()) {
    fiber = std::make_unique<Fiber>();
    fiber->stack.reset(new unsigned char[kStack]);
  } else {
    fiber = std::move(block->idle.back());
    block->idle.pop_back();
  }
  clear_stack(fiber->stack.get(), kStack);
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = kStack;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, run_threads, 0);
  block->fibers.push_back(std::move(fiber));
  return block->fibers.back().get();
}

void resume(Fiber* fiber) {
  block->current = fiber;
  if (fiber->thread >= 0) block->threads[fiber->thread].state = State::ready;
  change_over(block->scheduler, fiber->context, fiber->stack.get(), kStack);
  if (!block->error.empty()) throw Error(block->error);
}

// A GPU forgives lanes that have ended; whether they have by then is chance, so here they are a mistake.
bool all_came(int thread, unsigned mask, uint64_t meeting) {
  const Exchange& exchange = block->warps[thread / 32][mask];
  const int lanes = std::min(32, static_cast<int>(block->threads.size()) - thread / 32 * 32);
  for (int i = 0; i < lanes; ++i) {
    if ((mask >> i & 1) == 0 || exchange.came[i] >= meeting) continue;
    if (block->threads[thread / 32 * 32 + i].state == State::done) {
      fail("a shuffle or vote waits for a lane of its mask that has ended");
    }
    return false;
  }
  return true;
}

uint64_t last_meeting = 0;
uint64_t exchanges = 0;  // made so far, by any thread

// Lets every thread that waits at the block's barrier go on, if all of them do.
bool open_barrier() {
  const Thread* first = nullptr;
  size_t at = 0, done = 0;
  for (const Thread& t : block->threads) {
    done += t.state == State::done;
    if (t.state != State::at_barrier) continue;
    ++at;
    if (first == nullptr) first = &t;
    if (t.file != first->file || t.line != first->line) {
      throw Error(std::string(block->kernel) + ": threads of one block wait at different barriers, " + first->file +
                  ":" + std::to_string(first->line) + " and " + t.file + ":" + std::to_string(t.line));
    }
  }
  if (at == 0) return false;
  if (at + done < block->threads.size()) return false;
  if (done > 0) {
    throw Error(std::string(block->kernel) + ": " + std::to_string(done) + " threads have ended and " +
                std::to_string(at) + " wait at the barrier " + first->file + ":" + std::to_string(first->line));
  }
  for (Thread& t : block->threads) t.state = State::ready;
  return true;
}

void run_block(const std::vector<int>& order, std::mt19937_64& random, Order how) {
  Block& b = *block;
  for (Thread& t : b.threads) t.state = State::ready, t.meetings.clear();
  for (auto& warp : b.warps) warp.clear();
  b.waiting_to_start.assign(order.rbegin(), order.rend());
  while (true) {
    bool moved = false;
    if (!b.waiting_to_start.empty()) {
      resume(new_fiber());
      moved = true;
    } else {
      std::vector<Fiber*> able;
      for (const auto& fiber : b.fibers) {
        if (fiber->thread >= 0 && b.threads[fiber->thread].state == State::ready) able.push_back(fiber.get());
      }
      if (able.empty() && open_barrier()) continue;
      // Exchanges look for themselves whether all came: wake those who wait.
      if (able.empty()) {
        for (const auto& fiber : b.fibers) {
          if (fiber->thread >= 0 && b.threads[fiber->thread].state == State::at_exchange) able.push_back(fiber.get());
        }
        const uint64_t before = exchanges;
        for (Fiber* fiber : able) resume(fiber);
        if (!able.empty() && exchanges == before) {
          throw Error(std::string(b.kernel) + ": " + std::to_string(able.size()) +
                      " threads wait for the rest of their warp at a shuffle or vote that it does not come to");
        }
        moved = !able.empty();
      } else {
        if (how == Order::shuffled) std::shuffle(able.begin(), able.end(), random);
        if (how == Order::backward) std::reverse(able.begin(), able.end());
        for (Fiber* fiber : able) resume(fiber);
        moved = true;
      }
    }
    for (auto& fiber : b.fibers) {
      if (fiber->thread < 0) b.idle.push_back(std::move(fiber));
    }
    std::erase_if(b.fibers, [](const auto& fiber) { return fiber == nullptr; });
    if (b.fibers.empty() && b.waiting_to_start.empty()) return;
    if (!moved) throw Error(std::string(b.kernel) + ": threads wait for each other forever");
  }
}

}  // namespace

void fail(const char* what) { throw Error(where() + what); }

void check_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  throw Error(where() + "access of " + std::to_string(bytes) + " bytes at an address that is no multiple of it");
}

unsigned char* shared_memory() {
  unsigned char* data = block->shared.data();
  return data + (64 - reinterpret_cast<uintptr_t>(data) % 64) % 64;
}

void barrier(const char* file, int line) {
  Thread& thread = block->threads[running()];
  thread.file = file, thread.line = line;
  wait(State::at_barrier);
}

int lane() { return running() % 32; }

const uint64_t* exchange(unsigned mask, uint64_t mine) {
  const int self = running();
  if ((mask >> (self % 32) & 1) == 0) fail("a thread takes part in a shuffle or vote whose mask leaves it out");
  Exchange& meeting = block->warps[self / 32][mask];
  const uint64_t number = ++block->threads[self].meetings[mask];
  const int side = number % 2;
  if (meeting.came[self % 32] + 1 != number) fail("a shuffle was entered twice");
  bool first = true;
  for (int i = 0; i < 32; ++i) first &= meeting.came[i] < number;
  if (first) meeting.lanes[side] = 0;
  meeting.values[side][self % 32] = mine;
  meeting.lanes[side] |= 1u << (self % 32);
  meeting.came[self % 32] = number;
  while (!all_came(self, mask, number)) wait(State::at_exchange);
  last_meeting = number;
  ++exchanges;
  return meeting.values[side];
}

unsigned present(unsigned mask) { return block->warps[running() / 32][mask].lanes[last_meeting % 2]; }

void launch(const char* name, dim3 blocks, dim3 threads, size_t shared, const std::function<void()>& body,
            const Memory& memory, const Options& options) {
  const unsigned count = threads.x * threads.y * threads.z;
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || count == 0) {
    throw Error(std::string(name) + ": launched without blocks or threads");
  }
  if (count > 1024) throw Error(std::string(name) + ": " + std::to_string(count) + " threads a block; a GPU has 1024");
  if (shared > 48 * 1024) throw Error(std::string(name) + ": more than 48 KiB of shared memory");
  if (blocks.x > 0x7fffffffu || blocks.y > 65535 || blocks.z > 65535)
    throw Error(std::string(name) + ": grid too large");
  std::mt19937_64 random(options.seed);
  const auto arrange = [&](std::vector<int>& order) {
    std::iota(order.begin(), order.end(), 0);
    if (options.order == Order::backward) std::reverse(order.begin(), order.end());
    if (options.order == Order::shuffled) std::shuffle(order.begin(), order.end(), random);
  };
  Block b;
  b.body = &body, b.kernel = name;
  b.threads.resize(count), b.warps.resize((count + 31) / 32);
  for (unsigned i = 0; i < count; ++i) {
    b.threads[i].index = {i % threads.x, i / threads.x % threads.y, i / (threads.x * threads.y)};
  }
  std::vector<int> order(blocks.x * blocks.y * blocks.z), thread_order(count);
  arrange(order);
  position.threads = threads, position.blocks = blocks;
  constexpr size_t kMargin = 64;
  FaultGuard guard(memory);
  std::jmp_buf* target = guard.target();
  block = &b;
  std::string fault;
  if (setjmp(*target) == 0) {
    try {
      for (const int i : order) {
        position.block = {i % blocks.x, i / blocks.x % blocks.y, i / (blocks.x * blocks.y)};
        b.shared.assign(64 + shared + kMargin, 0xff);  // NaN: what nobody has written
        arrange(thread_order);
        run_block(thread_order, random, options.order);
        const unsigned char* margin = shared_memory() + shared;
        for (size_t k = 0; k < kMargin && margin + k < b.shared.data() + b.shared.size(); ++k) {
          if (margin[k] != 0xff) throw Error(where() + "shared memory is written to past its end");
        }
      }
    } catch (const Error& error) {
      fault = error.what();
    }
  } else {
    fault = where() + guard.what();
  }
  block = nullptr;
  if (!fault.empty()) throw Error(fault);
  for (const auto& buffer : memory.buffers()) buffer->check();
}

}  // namespace emulator
