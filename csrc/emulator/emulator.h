// Launching kernels on the emulated GPU, and memory that notices a wrong address. See README.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator/cuda.h"

namespace emulator {

// A kernel did what a GPU forbids, or would do something else on every run.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Order { forward, backward, shuffled };  // in which blocks, and threads between barriers, run

struct Options {
  Order order = Order::shuffled;
  uint64_t seed = 0;
};

// Where a buffer lies against the pages that nobody may touch: its end, or its start, is exactly at one.
enum class Side { end, start };

// Memory between two forbidden pages, filled with NaN (0xff bytes). What lies between its other end and the pages is
// checked after every launch.
class Buffer {
 public:
  Buffer(std::string name, size_t bytes, Side side, bool writable);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  const std::string& name() const { return name_; }
  void protect(bool on);  // read-only memory is so during launches alone
  void check() const;     // throws if the margin was written to
  bool describes(const void* address, std::string* what) const;

 private:
  std::string name_;
  size_t bytes_, region_;
  bool writable_;
  unsigned char* pages_;
  unsigned char* data_;
};

// The buffers of one launch.
class Memory {
 public:
  explicit Memory(Side side) : side_(side) {}
  void* input(const std::string& name, const void* from, size_t bytes);
  void* output(const std::string& name, size_t bytes);
  void* scratch(const std::string& name, const void* from, size_t bytes);  // read and written
  void copy_out(const std::string& name, void* to) const;
  const std::vector<std::unique_ptr<Buffer>>& buffers() const { return buffers_; }

 private:
  Side side_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

// Runs body() once for every thread of every block; body is the kernel with its arguments bound.
void launch(const char* name, dim3 blocks, dim3 threads, size_t shared, const std::function<void()>& body,
            const Memory& memory, const Options& options);

}  // namespace emulator
