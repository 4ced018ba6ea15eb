// Every operator's schema, once. Kernels are registered per backend in cpu/ and cuda/; shape
// functions, autograd and autocast in pyranet_fast/ops/*.py.
#include <Python.h>
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(pyranet_fast, m) {
  // output_sizes is flat: (h_0, w_0, h_1, w_1, ...). positions (uint8, shape and layout of x; without elements
  // unless with_positions, or a gradient is recorded) says for the 2x2 window that starts at a pixel which element is
  // its maximum: 2 * row + column. It serves all levels, since every level's windows are among these; entries of the
  // last row and column are 0. The backward needs x only for scale, shift and relu.
  m.def(
      "fractional_max_pool_pyramid(Tensor x, Tensor samples, SymInt[] output_sizes, Tensor? scale, "
      "Tensor? shift, bool relu, bool with_positions) -> (Tensor[] values, Tensor positions)");
  m.def(
      "fractional_max_pool_pyramid_backward(Tensor[] grads, Tensor positions, Tensor samples, Tensor? x, "
      "Tensor? scale, Tensor? shift, bool relu) -> (Tensor grad_x, Tensor grad_scale, Tensor grad_shift)");
  m.def("upsample_sum(Tensor[] maps, SymInt height, SymInt width, Tensor? base, bool align_corners) -> Tensor");
  // With a folded batch norm and a ReLU after the sum; for inference, no gradient. CUDA kernel only.
  m.def(
      "upsample_sum_affine(Tensor[] maps, SymInt height, SymInt width, Tensor? base, bool align_corners, "
      "Tensor? scale, Tensor? shift, bool relu) -> Tensor");
  // sizes is flat: (h_0, w_0, h_1, w_1, ...).
  m.def("upsample_sum_backward(Tensor grad, SymInt[] sizes, bool align_corners) -> Tensor[]");
  // Levels on a canvas; places is flat: (y_0, x_0, h_0, w_0, ...). CUDA kernels only: Python composes it elsewhere. The
  // pool's backward takes views of the canvas' gradient.
  m.def(
      "fractional_max_pool_canvas(Tensor x, Tensor samples, SymInt[] places, SymInt height, SymInt width, "
      "Tensor? scale, Tensor? shift, bool relu, bool with_positions) -> (Tensor canvas, Tensor positions)");
  m.def(
      "upsample_sum_canvas(Tensor maps, SymInt[] places, SymInt height, SymInt width, Tensor? base, "
      "bool align_corners) -> Tensor");
  m.def(
      "upsample_sum_canvas_backward(Tensor grad, SymInt[] places, SymInt canvas_height, SymInt canvas_width, "
      "bool align_corners) -> Tensor");
  // A sum as add_affine_relu's, or x max-pooled by 2, and of relu(sum * scale[j] + shift[j]) (of the sum itself where
  // they are empty) a 1x1 convolution each, relu?(weight[j] * . + bias[j] + residual); CPU, float32. weight[j] is
  // pointwise_pack's of (K, C).
  m.def("pointwise_pack(Tensor weight) -> Tensor");
  m.def(
      "fused_pointwise(Tensor x, Tensor? other, Tensor[] scale, Tensor[] shift, Tensor[] weight, Tensor[] bias, "
      "int[] relu, Tensor? residual, bool keep, bool pool) -> Tensor[]");
  // y = relu(y + expand(relu(sum of the upsampled levels)) + expand_bias), levels being 3x3 convolutions, with bias, of
  // x pooled with windows of evaluation; CPU, float32, channels_last. sizes is flat: (h_0, w_0, h_1, w_1, ...). filters
  // are pyramid_pack's of (K, C, 3, 3), one for all levels or one each; expand is pointwise_pack's.
  m.def("pyramid_pack(Tensor weight) -> Tensor");
  m.def(
      "pooled_pyramid_(Tensor x, int[] sizes, Tensor[] filters, Tensor[] biases, Tensor expand, Tensor expand_bias, "
      "Tensor(a!) y) -> ()");
  // 3x3, stride 1, padding 1, by Winograd's F(tile x tile, 3x3); CPU, channels_last; float32 with tiles of 4 or 2,
  // bfloat16 with tiles of 2. packed is winograd_pack's, which depends on the instruction set; y = relu?(conv(x) + bias
  // + other). finite: where it is false an infinity or NaN has spread over whole tiles, and the caller convolves again,
  // directly.
  m.def("winograd_pack(Tensor weight, int tile, bool backward) -> Tensor");
  m.def("winograd_weight_gradient(Tensor x, Tensor gradient) -> (Tensor grad_weight, bool finite)");
  m.def(
      "winograd_conv3x3(Tensor x, Tensor packed, Tensor? bias, Tensor? other, SymInt outputs, bool relu) -> (Tensor y, "
      "bool finite)");
  // Operators of the above in a row. Places: values, in order, then what is made. program: 0 fused_pointwise, (x,
  // other, residual, keep, pool, scale, shift, weight, bias, relu, results), 1 winograd_conv3x3 (x, packed, bias,
  // other, outputs, relu, y), 2 pooled_pyramid_ (x, sizes, filters, biases, expand, expand_bias, y, made before), 3
  // places to forget; lists begin with their length, -1 is no tensor. results: places. finite: of all convolutions.
  m.def("run_folded(Tensor[] values, int[] program, int[] results) -> (Tensor[] made, bool finite)");
  m.def("heatmap_argmax(Tensor heatmaps, bool quarter) -> (Tensor coords, Tensor scores, Tensor indices)");
  // The maps' mean with a mirrored stack: map k of the second one, mirrored, belongs to joint swap[k] (int64) of the
  // first. Scores are float32 (float64 for float64). No gradient, no CPU kernel: Python composes it there.
  m.def(
      "heatmap_argmax_mirrored(Tensor heatmaps, Tensor mirrored, Tensor swap, bool quarter) -> (Tensor coords, "
      "Tensor scores)");
  m.def("heatmap_argmax_backward(Tensor grad_scores, Tensor indices, SymInt height, SymInt width) -> Tensor");
  m.def("heatmap_loss(Tensor pred, Tensor joints, Tensor weight, float sigma) -> Tensor");
  m.def("heatmap_loss_backward(Tensor grad, Tensor pred, Tensor joints, Tensor weight, float sigma) -> Tensor");
  m.def("gaussian_heatmaps(Tensor joints, Tensor weight, SymInt height, SymInt width, float sigma) -> Tensor");
  m.def("batch_norm_relu(Tensor x, Tensor? weight, Tensor? bias, float eps) -> (Tensor y, Tensor mean, Tensor var)");
  m.def(
      "batch_norm_relu_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, "
      "float eps) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)");
  // batch_norm_relu and batch_norm_update_ in one call, for eager training.
  m.def(
      "batch_norm_relu_update_(Tensor x, Tensor? weight, Tensor? bias, Tensor(a!) running_mean, "
      "Tensor(b!) running_var, Tensor(c!) batches, float momentum, float eps) -> (Tensor y, Tensor mean, Tensor var)");
  // The same for several norms of one x, weight and bias (J, C), on CUDA three at most; channels_last. extra is added
  // to the gradient of x; an empty tensor among grads is zero.
  m.def(
      "shared_batch_norm_relu(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor[] y, Tensor mean, Tensor "
      "var)");
  m.def(
      "shared_batch_norm_relu_backward(Tensor[] grads, Tensor? extra, Tensor x, Tensor weight, Tensor bias, "
      "Tensor mean, Tensor var, float eps) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)");
  // x + other (x nearest-upsampled by 2 where other has twice its size), and relu(sum * scale[j] + shift[j]) for every
  // row j of scale; the sum comes first where it is kept. Outputs are channels_last. For inference, no gradient.
  m.def("add_affine_relu(Tensor x, Tensor? other, Tensor scale, Tensor shift, bool keep) -> Tensor[]");
  m.def(
      "batch_norm_update_(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor(c!) batches, Tensor mean, "
      "Tensor var, float momentum, SymInt count) -> ()");
}

// `import pyranet_fast._C` only has to load this library; the operators live in torch's dispatcher.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
