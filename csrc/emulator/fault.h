// Turns a forbidden access into an error: while it lives, inputs are read-only and a fault jumps to target().
#pragma once

#include <csetjmp>
#include <csignal>
#include <string>

#include "emulator/emulator.h"

namespace emulator {

class FaultGuard {
 public:
  explicit FaultGuard(const Memory& memory);
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;

  std::jmp_buf* target() { return &target_; }
  std::string what() const;

 private:
  static void handle(int signal, siginfo_t* info, void* context);
  static FaultGuard* active_;
  const Memory& memory_;
  std::jmp_buf target_;
  const void* address_ = nullptr;
  struct sigaction before_segv_, before_bus_;
  stack_t before_stack_;
  unsigned char* stack_;
};

}  // namespace emulator
