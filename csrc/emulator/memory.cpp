// Buffers between forbidden pages, and the signal that a forbidden access raises.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "emulator/emulator.h"
#include "emulator/fault.h"

namespace emulator {
namespace {

constexpr unsigned char kPoison = 0xff;  // NaN in every floating-point type
size_t page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }
size_t whole_pages(size_t bytes) { return (bytes + page() - 1) / page() * page(); }
constexpr size_t kForbidden = 64;  // pages on either side

}  // namespace

Buffer::Buffer(std::string name, size_t bytes, Side side, bool writable)
    : name_(std::move(name)), bytes_(bytes), region_(whole_pages(bytes == 0 ? 1 : bytes)), writable_(writable) {
  const size_t forbidden = kForbidden * page();
  void* all = mmap(nullptr, region_ + 2 * forbidden, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) throw Error("no memory for buffer " + name_);
  pages_ = static_cast<unsigned char*>(all) + forbidden;
  mprotect(pages_, region_, PROT_READ | PROT_WRITE);
  std::memset(pages_, kPoison, region_);
  data_ = side == Side::end ? pages_ + region_ - bytes_ : pages_;
}

Buffer::~Buffer() { munmap(pages_ - kForbidden * page(), region_ + 2 * kForbidden * page()); }

void Buffer::protect(bool on) {
  if (!writable_) mprotect(pages_, region_, on ? PROT_READ : PROT_READ | PROT_WRITE);
}

void Buffer::check() const {
  for (const unsigned char* p = pages_; p < pages_ + region_; ++p) {
    if ((p < data_ || p >= data_ + bytes_) && *p != kPoison) {
      const auto distance = p < data_ ? p - data_ : p - data_ - static_cast<std::ptrdiff_t>(bytes_);
      throw Error("buffer " + name_ + " of " + std::to_string(bytes_) + " bytes was written to " +
                  std::to_string(distance) + " bytes from its " + (p < data_ ? "start" : "end"));
    }
  }
}

bool Buffer::describes(const void* address, std::string* what) const {
  const auto* p = static_cast<const unsigned char*>(address);
  const size_t forbidden = kForbidden * page();
  if (p < pages_ - forbidden || p >= pages_ + region_ + forbidden) return false;
  if (p >= data_ && p < data_ + bytes_) {
    *what = "write to the input " + name_;
  } else {
    *what =
        "access outside " + name_ + " of " + std::to_string(bytes_) + " bytes, at byte " + std::to_string(p - data_);
  }
  return true;
}

void* Memory::input(const std::string& name, const void* from, size_t bytes) {
  buffers_.push_back(std::make_unique<Buffer>(name, bytes, side_, false));
  if (bytes > 0) std::memcpy(buffers_.back()->data(), from, bytes);
  return buffers_.back()->data();
}

void* Memory::output(const std::string& name, size_t bytes) {
  buffers_.push_back(std::make_unique<Buffer>(name, bytes, side_, true));
  return buffers_.back()->data();
}

void* Memory::scratch(const std::string& name, const void* from, size_t bytes) {
  void* data = output(name, bytes);
  if (bytes > 0) std::memcpy(data, from, bytes);
  return data;
}

void Memory::copy_out(const std::string& name, void* to) const {
  for (const auto& buffer : buffers_) {
    if (buffer->name() == name) {
      std::memcpy(to, buffer->data(), buffer->bytes());
      return;
    }
  }
  throw Error("there is no buffer " + name);
}

FaultGuard* FaultGuard::active_ = nullptr;

FaultGuard::FaultGuard(const Memory& memory) : memory_(memory), stack_(new unsigned char[64 * 1024]) {
  stack_t stack{};
  stack.ss_sp = stack_;
  stack.ss_size = 64 * 1024;
  sigaltstack(&stack, &before_stack_);
  struct sigaction action{};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &before_segv_);
  sigaction(SIGBUS, &action, &before_bus_);
  active_ = this;
  for (const auto& buffer : memory_.buffers()) buffer->protect(true);
}

FaultGuard::~FaultGuard() {
  for (const auto& buffer : memory_.buffers()) buffer->protect(false);
  active_ = nullptr;
  sigaction(SIGSEGV, &before_segv_, nullptr);
  sigaction(SIGBUS, &before_bus_, nullptr);
  sigaltstack(&before_stack_, nullptr);
  delete[] stack_;
}

void FaultGuard::handle(int, siginfo_t* info, void*) {
  active_->address_ = info->si_addr;
  std::longjmp(active_->target_, 1);  // off the signal's stack and off the fiber's: nothing on them is needed again
}

std::string FaultGuard::what() const {
  std::string text;
  for (const auto& buffer : memory_.buffers()) {
    if (buffer->describes(address_, &text)) return text;
  }
  return "access to memory that belongs to no buffer";
}

}  // namespace emulator
