"""heatmap_argmax with refinement against a good native form, in the same run.

Native is one `max` over the flattened map and four gathers of neighbours. `python -m pytest
bench/test_heatmap_argmax.py -s` prints, for every case, our time, the native time (contiguous / channels_last, eager)
and our ratio to the better one: the median over rounds in which the three run one after another, so that whatever
else the machine does falls on all. Two threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.paired import LAYOUTS, compare, described, moved
from pyranet_fast import ops

JOINTS, SIDE = 16, 64


def native_argmax(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """The same for maps without ties and NaN."""
    h, w = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)
    scores, index = flat.max(2)
    x, y = index % w, index // w
    neighbours = torch.stack((index + 1, index - 1, index + w, index - w), 2).clamp_(0, h * w - 1)
    right, left, below, above = flat.gather(2, neighbours).unbind(2)
    step_x = (right - left).sign() * 0.25 * ((x > 0) & (x < w - 1))
    step_y = (below - above).sign() * 0.25 * ((y > 0) & (y < h - 1))
    return torch.stack((x + step_x, y + step_y), 2).float(), scores


@pytest.mark.parametrize("batch", (4, 16))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("fp32", "bf16"))
def test_against_native(benchmark: Any, dtype: torch.dtype, layout: str, batch: int) -> None:
    area = SIDE * SIDE
    generator = torch.Generator().manual_seed(0)
    ranks = torch.rand(batch * JOINTS, area, generator=generator).argsort(1).view(batch, JOINTS, SIDE, SIDE)
    values = (ranks - area + 200).clamp_min(0).to(dtype)  # no ties among the largest, in bfloat16 either
    forms = {name: values.contiguous(memory_format=form) for name, form in LAYOUTS.items()}
    steps: list[Callable[[], tuple[Tensor, Tensor]]] = [
        lambda: ops.heatmap_argmax(forms[layout], refine="quarter"),
        lambda: native_argmax(forms["contiguous"]),
        lambda: native_argmax(forms["channels_last"]),
    ]
    results = [step() for step in steps]
    for coords, scores in results[1:]:  # parity first
        assert torch.equal(coords, results[0][0]) and torch.equal(scores, results[0][1])
    case = described("heatmap_argmax", values.shape, dtype, layout, backward=False)
    compare(benchmark, steps[0], dict(zip(LAYOUTS, steps[1:], strict=True)), case=case, size=moved(values))
