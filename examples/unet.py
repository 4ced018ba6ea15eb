"""The operators in a custom model, a U-Net whose bottleneck pools by several ratios:  python unet.py [STEPS]"""

import sys

import torch
from torch import Tensor, nn

import pyranet_fast as pf


class PyramidBlock(nn.Module):
    """x + the sum of convolutions on fractionally pooled copies of x, one for each ratio."""

    def __init__(self, channels: int, ratios: tuple[float, ...] = (0.84, 0.71, 0.59, 0.5)) -> None:
        super().__init__()
        self.ratios = ratios
        self.norm = nn.BatchNorm2d(channels)
        self.filters = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in ratios)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        sizes = [(int(height * ratio), int(width * ratio)) for ratio in self.ratios]
        # Windows are random in training; in evaluation they stay where they are.
        samples = None if self.training else x.new_full((len(sizes), 1, 1, 2), 0.5, dtype=torch.float32)
        levels = pf.ops.fractional_max_pool_pyramid(self.norm(x), sizes, samples)
        maps = [conv(level) for conv, level in zip(self.filters, levels, strict=True)]
        return pf.ops.upsample_sum(maps, (height, width), base=x)


class UNet(nn.Module):
    """Two levels, and heat maps of ``joints`` joints at the input's size."""

    def __init__(self, joints: int, channels: int = 16) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU())
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU())
        self.bottleneck = nn.Sequential(PyramidBlock(2 * channels), PyramidBlock(2 * channels))
        self.narrow = nn.Conv2d(2 * channels, channels, 1)
        self.leave = nn.Conv2d(channels, joints, 1)

    def forward(self, image: Tensor) -> Tensor:
        wide = self.enter(image)
        deep = self.narrow(self.bottleneck(self.down(wide)))
        return self.leave(pf.ops.upsample_sum([deep], (image.shape[-2], image.shape[-1]), base=wide))


def batch(size: int = 8) -> tuple[Tensor, Tensor]:
    """Dark images with a bright dot, and where it is: (N, 3, 64, 64) and (N, 1, 2), x and y."""
    joints = 8 + 48 * torch.rand(size, 1, 2)
    dots = pf.ops.gaussian_heatmaps(joints, torch.ones(size, 1), (64, 64), sigma=2.0)
    return 0.3 * torch.rand(size, 3, 64, 64) + dots, joints


torch.manual_seed(0)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
model = UNet(joints=1)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for step in range(steps):
    image, joints = batch()
    loss = pf.ops.heatmap_loss(model(image), joints, torch.ones(joints.shape[:2]), sigma=2.0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0 or step == steps - 1:
        print(f"step {step}: loss {loss.item():.5f}")

model.eval()
image, joints = batch()
with torch.no_grad():
    found, _ = pf.ops.heatmap_argmax(model(image), refine="quarter")
print(f"mean error {(found - joints).norm(dim=2).mean():.2f} pixels")
