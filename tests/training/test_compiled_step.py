"""Forward, loss and gradients of a training step as one graph for every size."""

from __future__ import annotations

import torch

from pyranet_fast import ops
from pyranet_fast.models import PyraNet


def test_forward_loss_and_backward_are_one_graph_for_every_size():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = PyraNet(1, 3, features=8, depth=1, levels=2, base_width=2)

    def loss(image: torch.Tensor, joints: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.stack([ops.heatmap_loss(score, joints, weight) for score in model(image)]).sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    # Equal sizes would be taken for one: none is that of joints or channels either.
    for count, height, width in ((5, 16, 32), (7, 32, 16)):
        image, joints = torch.randn(count, 3, height, width), torch.rand(count, 3, 2) * 4
        results = []
        for step in (loss, compiled):
            torch.manual_seed(1)  # the pooling windows
            model.zero_grad()
            value = step(image, joints, torch.ones(count, 3))
            value.backward()
            results.append([value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        for exact, found in zip(*results, strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()
