"""Triton's operators: `torch.ops.pyranet_fast_triton`, with the schemas of the native ones (csrc/schema.cpp).

They need CUDA and Triton, no compiler. Under TRITON_INTERPRET=1 they run on the CPU, slowly: that is how they are
tested. Importing this package registers them; `ops._backend` decides when.
"""

from __future__ import annotations

import os

import torch

from . import fractional_max_pool_pyramid as pool
from . import gaussian_heatmaps as gaussian
from . import heatmap_argmax as argmax
from . import heatmap_loss as loss
from . import upsample_sum as upsample

SCHEMAS = {
    "fractional_max_pool_pyramid": (
        "(Tensor x, Tensor samples, SymInt[] output_sizes, Tensor? scale, Tensor? shift, bool relu, "
        "bool with_positions) -> (Tensor[] values, Tensor positions)",
        pool.forward,
    ),
    "fractional_max_pool_pyramid_backward": (
        "(Tensor[] grads, Tensor positions, Tensor samples, Tensor? x, Tensor? scale, Tensor? shift, bool relu) "
        "-> (Tensor grad_x, Tensor grad_scale, Tensor grad_shift)",
        pool.backward,
    ),
    "upsample_sum": (
        "(Tensor[] maps, SymInt height, SymInt width, Tensor? base, bool align_corners) -> Tensor",
        upsample.forward,
    ),
    "upsample_sum_backward": ("(Tensor grad, SymInt[] sizes, bool align_corners) -> Tensor[]", upsample.backward),
    "heatmap_argmax": (
        "(Tensor heatmaps, bool quarter) -> (Tensor coords, Tensor scores, Tensor indices)",
        argmax.forward,
    ),
    "heatmap_argmax_backward": (
        "(Tensor grad_scores, Tensor indices, SymInt height, SymInt width) -> Tensor",
        argmax.backward,
    ),
    "heatmap_argmax_mirrored": (
        "(Tensor heatmaps, Tensor mirrored, Tensor swap, bool quarter) -> (Tensor coords, Tensor scores)",
        argmax.forward_mirrored,
    ),
    "heatmap_loss": ("(Tensor pred, Tensor joints, Tensor weight, float sigma) -> Tensor", loss.forward),
    "heatmap_loss_backward": (
        "(Tensor grad, Tensor pred, Tensor joints, Tensor weight, float sigma) -> Tensor",
        loss.backward,
    ),
    "gaussian_heatmaps": (
        "(Tensor joints, Tensor weight, SymInt height, SymInt width, float sigma) -> Tensor",
        gaussian.forward,
    ),
}

_library = torch.library.Library("pyranet_fast_triton", "DEF")  # unregisters its operators when it is collected
for _name, (_schema, _function) in SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _function, "CUDA")
    if os.environ.get("TRITON_INTERPRET") == "1":
        _library.impl(_name, _function, "CPU")
