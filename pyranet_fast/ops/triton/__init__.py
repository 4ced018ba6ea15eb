"""Triton's operators: `torch.ops.pyranet_fast_triton`, with the schemas of the native ones (csrc/schema.cpp).

They need CUDA and Triton, no compiler. Under TRITON_INTERPRET=1 they run on the CPU, slowly: that is how they are
tested. Importing this package registers them; `ops.dispatch` decides when. A schema is what a function's annotations
say; a test holds it equal to the native one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from . import add_affine_relu as affine
from . import fractional_max_pool_pyramid as pool
from . import gaussian_heatmaps as gaussian
from . import heatmap_argmax as argmax
from . import heatmap_loss as loss
from . import upsample_sum as upsample

OPERATORS: dict[str, Callable[..., Any]] = {
    "fractional_max_pool_pyramid": pool.forward,
    "fractional_max_pool_pyramid_backward": pool.backward,
    "upsample_sum": upsample.forward,
    "upsample_sum_backward": upsample.backward,
    "heatmap_argmax": argmax.forward,
    "heatmap_argmax_backward": argmax.backward,
    "heatmap_argmax_mirrored": argmax.forward_mirrored,
    "heatmap_loss": loss.forward,
    "heatmap_loss_backward": loss.backward,
    "gaussian_heatmaps": gaussian.forward,
    "add_affine_relu": affine.forward,
}

_library = torch.library.Library("pyranet_fast_triton", "DEF")  # unregisters its operators when it is collected
for _name, _function in OPERATORS.items():
    _library.define(_name + torch.library.infer_schema(_function, mutates_args=()))
    _library.impl(_name, _function, "CUDA")
    if os.environ.get("TRITON_INTERPRET") == "1":
        _library.impl(_name, _function, "CPU")
