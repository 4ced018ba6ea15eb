"""The operators: fractional max-pool pyramid, upsample-sum, heat-map argmax, loss and targets."""

from .add_affine_relu import add_affine_relu
from .batch_norm_relu import batch_norm_relu
from .canvas import Canvas, canvas_of, fractional_max_pool_canvas, upsample_sum_canvas
from .dispatch import available as available_backends
from .dispatch import backend
from .fractional_max_pool_pyramid import fractional_max_pool_pyramid
from .gaussian_heatmaps import gaussian_heatmaps
from .heatmap_argmax import heatmap_argmax
from .heatmap_loss import heatmap_loss
from .upsample_sum import upsample_sum

__all__ = [
    "Canvas",
    "add_affine_relu",
    "available_backends",
    "backend",
    "batch_norm_relu",
    "canvas_of",
    "fractional_max_pool_canvas",
    "fractional_max_pool_pyramid",
    "gaussian_heatmaps",
    "heatmap_argmax",
    "heatmap_loss",
    "upsample_sum",
    "upsample_sum_canvas",
]
