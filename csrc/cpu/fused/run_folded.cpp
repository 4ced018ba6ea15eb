// A part of a folded network's pass: fused operators that follow each other, called without returning to Python between
// them, which costs as much as the kernels of small maps.
#include "cpu/fused/operators.h"
#include "cpu/host.h"

namespace pyranet_fast::cpu {
namespace {

constexpr const char* kName = "run_folded";

// Reads a program: integers, of which those that stand for tensors are places in `tensors`.
class Run {
 public:
  Run(const std::vector<Tensor>& values, const std::vector<int64_t>& program)
      : program_(program), given_(values.size()), tensors_(values.begin(), values.end()) {
    tensors_.resize(values.size() + program.size());
  }

  bool finite() const { return finite_; }

  std::vector<Tensor> results(const std::vector<int64_t>& places) {
    std::vector<Tensor> made;
    for (const int64_t place : places) made.push_back(at(place));
    return made;
  }

  void all() {
    while (next_ < program_.size()) {
      const int64_t instruction = number();
      switch (instruction) {
        case 0:
          pointwise();
          break;
        case 1:
          convolution();
          break;
        case 2:
          pyramid();
          break;
        case 3:
          forget();
          break;
        default:
          STD_TORCH_CHECK(false, kName, ": program has instruction ", instruction, "; expected 0 to 3");
      }
    }
  }

 private:
  int64_t number() {
    STD_TORCH_CHECK(next_ < program_.size(), kName, ": program ends within an instruction");
    return program_[next_++];
  }

  std::vector<int64_t> numbers() {
    const int64_t count = number();
    STD_TORCH_CHECK(count >= 0 && count <= static_cast<int64_t>(program_.size() - next_), kName,
                    ": program ends within an instruction");
    std::vector<int64_t> result(program_.begin() + next_, program_.begin() + next_ + count);
    next_ += count;
    return result;
  }

  size_t place(int64_t place) const {
    STD_TORCH_CHECK(place >= 0 && place < static_cast<int64_t>(tensors_.size()), kName, ": program has place ", place,
                    " of ", tensors_.size());
    return place;
  }

  const Tensor& at(int64_t index) const {
    const std::optional<Tensor>& tensor = tensors_[place(index)];
    STD_TORCH_CHECK(tensor.has_value(), kName, ": program reads place ", index, ", where nothing is");
    return *tensor;
  }

  Tensor tensor() { return at(number()); }

  std::optional<Tensor> optional() {
    const int64_t index = number();
    if (index == -1) return std::nullopt;
    return at(index);
  }

  std::vector<Tensor> list() { return results(numbers()); }

  void put(Tensor tensor) { tensors_[place(number())] = std::move(tensor); }

  // x, other, residual, keep, pool; for all branches scale, shift, weight, bias, ReLU; places of results.
  void pointwise() {
    Tensor x = tensor();
    std::optional<Tensor> other = optional(), residual = optional();
    const bool keep = number() != 0, pool = number() != 0;
    std::vector<Tensor> scale = list(), shift = list(), weight = list(), bias = list();
    std::vector<int64_t> relu = numbers();
    for (Tensor& made :
         fused_pointwise(std::move(x), std::move(other), std::move(scale), std::move(shift), std::move(weight),
                         std::move(bias), std::move(relu), std::move(residual), keep, pool)) {
      put(std::move(made));
    }
  }

  // x, packed, bias, other, outputs, ReLU; place of the result.
  void convolution() {
    Tensor x = tensor(), packed = tensor();
    std::optional<Tensor> bias = optional(), other = optional();
    const int64_t outputs = number();
    const bool relu = number() != 0;
    auto [y, finite] =
        winograd_conv3x3(std::move(x), std::move(packed), std::move(bias), std::move(other), outputs, relu);
    finite_ = finite_ && finite;
    put(std::move(y));
  }

  // x, sizes, filters, biases, expand, its bias, y: a tensor made here, since it is overwritten.
  void pyramid() {
    Tensor x = tensor();
    std::vector<int64_t> sizes = numbers();
    std::vector<Tensor> filters = list(), biases = list();
    Tensor expand = tensor(), expand_bias = tensor();
    const int64_t y = number();
    STD_TORCH_CHECK(y >= static_cast<int64_t>(given_), kName, ": program overwrites value ", y);
    pooled_pyramid_(std::move(x), std::move(sizes), std::move(filters), std::move(biases), std::move(expand),
                    std::move(expand_bias), at(y));
  }

  // Places that nobody reads any more.
  void forget() {
    for (const int64_t index : numbers()) tensors_[place(index)].reset();
  }

  const std::vector<int64_t>& program_;
  size_t next_ = 0;
  const size_t given_;
  std::vector<std::optional<Tensor>> tensors_;
  bool finite_ = true;
};

std::tuple<std::vector<Tensor>, bool> run_folded(std::vector<Tensor> values, std::vector<int64_t> program,
                                                 std::vector<int64_t> results) {
  Run run(values, program);
  run.all();
  return {run.results(results), run.finite()};
}

STABLE_TORCH_LIBRARY_IMPL(pyranet_fast, CPU, m) { m.impl("run_folded", TORCH_BOX(&run_folded)); }

}  // namespace
}  // namespace pyranet_fast::cpu
