"""The operators and the network under torch.compile, as one graph:  python compile.py [BACKEND of torch.compile]

The first call of each compiled function takes a minute with the default backend, inductor; aot_eager takes seconds.
"""

import sys

import torch
from torch import Tensor

import pyranet_fast as pf

backend = sys.argv[1] if len(sys.argv) > 1 else "inductor"
torch.manual_seed(0)


# A function of your own around the operators: without a graph break, for any size, with gradients.
@torch.compile(backend=backend, fullgraph=True, dynamic=True)
def pyramid(x: Tensor, samples: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    sizes = [(height * 3 // 4, width * 3 // 4), (height // 2, width // 2)]
    levels = pf.ops.fractional_max_pool_pyramid(torch.relu(x), sizes, samples)
    return pf.ops.upsample_sum([level.tanh() for level in levels], (height, width), base=x)


samples = torch.rand(2, 1, 1, 2)
for side in (32, 48):
    x = torch.rand(2, 8, side, side, requires_grad=True)
    pyramid(x, samples).square().mean().backward()
    print(f"{side} px: gradient of norm {x.grad.norm():.5f}")

# The network.
model = pf.models.PyraNet(stacks=1, features=32, depth=2).eval()
compiled = torch.compile(model, backend=backend, fullgraph=True)
image = torch.rand(1, 3, 64, 64)
with torch.no_grad():
    difference = (compiled(image)[-1] - model(image)[-1]).abs().max()
print(f"largest difference of the compiled network: {difference:.1e}")
