"""Variance of responses and gradients at initialization (figures 5 and 6, equation 15 of the paper).

From top to bottom: measurement, the networks of the paper, tables and plots.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..io import atomic_write
from ..models import PyraNet, wide_resnet
from ..nn.hourglass import Hourglass
from ..nn.init import initialize_
from .contest import new_figure

RULES = ("xavier", "kaiming", "paper")
LABELS = {"xavier": "Xavier", "kaiming": "MSR (Kaiming)", "torch": "PyTorch's own", "paper": "equation 15"}


@dataclass(frozen=True)
class Trace:
    """Variances along a network.

    Attributes:
        names: of the places, in the order of the forward pass.
        responses: variance of the responses there, over batch, channels and pixels.
        gradients: variance of the loss's gradient there; empty where it was not asked for.
    """

    names: list[str]
    responses: list[float]
    gradients: list[float]


class BranchModule(nn.Module):
    """ReLU, then ``branches`` 1x1 convolutions of it side by side, added up; no normalization (section 4.1)."""

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same shape."""
        active = F.relu(x)
        total = self.branches[0](active)
        for branch in self.branches[1:]:
            total = total + branch(active)
        return total


def branch_stack(branches: Sequence[int], channels: int = 512) -> nn.Sequential:
    """`BranchModule` after `BranchModule`, with the given numbers of branches."""
    return nn.Sequential(*(BranchModule(channels, count) for count in branches))


@contextlib.contextmanager
def _recording(
    places: Mapping[str, nn.Module], responses: dict[str, float], gradients: dict[str, float]
) -> Iterator[None]:
    def hook(name: str) -> Any:
        def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            responses[name] = output.detach().double().var().item()
            if output.requires_grad:
                output.register_hook(lambda grad: gradients.update({name: grad.double().var().item()}))

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in places.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trace(model: nn.Module, places: Mapping[str, nn.Module], x: Tensor, *, backward: bool = False) -> Trace:
    """Variances at the outputs of some of a model's modules.

    Args:
        model: in the mode that it shall run in: batch norm's statistics are the batch's in training mode.
        places: modules of the model that return one tensor, by the names that they shall have.
        x: the model's input.
        backward: measure gradients too, of the sum of the outputs' products with Gaussian noise of variance 1.

    Raises:
        ValueError: the model does not reach one of the places.
    """
    responses: dict[str, float] = {}
    gradients: dict[str, float] = {}
    with _recording(places, responses, gradients), torch.set_grad_enabled(backward):
        output = model(x)
        if backward:
            outputs = [output] if isinstance(output, Tensor) else list(output)
            loss = torch.stack([(o * torch.randn_like(o)).sum() for o in outputs]).sum()
            loss.backward()
            model.zero_grad(set_to_none=True)
    missing = [name for name in places if name not in responses]
    if missing:
        raise ValueError(f"places has {missing[0]!r}, which the model did not reach")
    names = list(responses)
    return Trace(names, [responses[n] for n in names], [gradients[n] for n in names] if backward else [])


def stacks_of_branches(
    rule: str, branches: Sequence[int] = (4,) * 20, *, channels: int = 512, networks: int = 8, seed: int = 0
) -> Trace:
    """20 modules of parallel convolutions without batch norm, initialized by a rule, forwards and backwards.

    By equation 15's derivation a module multiplies the variance by C under He's rule, by C / 2 under Glorot's
    (C = C_i, the number of branches) and by about 1 under the paper's. That is the expectation over the weights: in a
    network of finite width the variance walks around it, the farther the narrower the network (by about
    exp(sqrt(5 modules / channels))), so the mean of several wide networks is returned.
    """
    found = []
    for number in range(networks):
        torch.manual_seed(seed + number)
        model = branch_stack(branches, channels)
        x = torch.randn(8, channels, 4, 4)
        initialize_(model, rule, x)
        found.append(trace(model, {f"module {i + 1}": m for i, m in enumerate(model)}, x, backward=True))

    def means(rows: list[list[float]]) -> list[float]:
        return [statistics.fmean(column) for column in zip(*rows, strict=True)]

    return Trace(found[0].names, means([t.responses for t in found]), means([t.gradients for t in found]))


def residual_network(depth: int = 112, *, seed: int = 0) -> Trace:
    """Figure 5: the units of a pre-activation ResNet; "1x1" in the name of those without an identity skip."""
    torch.manual_seed(seed)
    model = wide_resnet(depth, 1).train()
    blocks = {f"unit {i + 1}{'' if b.skip is None else ', 1x1'}": b for i, b in enumerate(model.blocks)}
    return trace(model, blocks, torch.randn(16, 3, 32, 32))


def hourglass_sums(variance_control: bool, *, features: int = 64, depth: int = 4, seed: int = 0) -> Trace:
    """Figure 6: the sums of two branches in one plain hourglass, the innermost first.

    Without variance control both branches end in an identity skip, and every sum adds up what came so far; with it
    the lower branch begins anew from a normalized response.
    """
    torch.manual_seed(seed)
    model = PyraNet(1, 16, features=features, depth=depth, variant="plain", variance_control=variance_control).train()
    glasses = [m for m in model.stacks[0].modules() if isinstance(m, Hourglass)]
    places = {f"sum at {2 ** (6 - i)} px": glass for i, glass in enumerate(glasses)}
    return trace(model, places, torch.randn(4, 3, 256, 256))


def stacked_hourglasses(rule: str, *, stacks: int = 8, features: int = 64, seed: int = 0) -> Trace:
    """Outputs of the hourglasses of a PRM-B* network, initialized by a rule, forwards and backwards."""
    torch.manual_seed(seed)
    model = PyraNet(stacks, 16, features=features, depth=3).train()
    x = torch.randn(4, 3, 128, 128)
    initialize_(model, rule, x)
    places = {f"stack {i + 1}": stack.get_submodule("hourglass") for i, stack in enumerate(model.stacks)}
    return trace(model, places, x, backward=True)


def growth(values: list[float]) -> float:
    """The factor of one step from the first value to the last, as a geometric mean."""
    return (values[-1] / values[0]) ** (1 / (len(values) - 1))


def measure(seed: int = 0) -> dict[str, dict[str, Trace]]:
    """All studies, by name and by network."""
    return {
        "branches": {rule: stacks_of_branches(rule, seed=seed) for rule in RULES},
        "resnet": {"ResNet-112": residual_network(seed=seed)},
        "hourglass": {
            "identity skips": hourglass_sums(False, seed=seed),
            "variance control": hourglass_sums(True, seed=seed),
        },
        "stacks": {rule: stacked_hourglasses(rule, seed=seed) for rule in ("torch", *RULES)},
    }


def tables(found: dict[str, dict[str, Trace]]) -> str:
    """Markdown of what was measured."""
    lines = [
        "20 modules of 4 parallel 1x1 convolutions without batch norm, 512 channels, mean of 8 networks; factor of one "
        "module (geometric mean), lowest and highest variance relative to the first module (gradients: the last):",
        "",
        "| initialization | forward, a module | range | backward, a module | range |",
        "|---|---:|---:|---:|---:|",
    ]
    for rule, one in found["branches"].items():
        gradients = one.gradients[::-1]
        cells = []
        for values in (one.responses, gradients):
            relative = [v / values[0] for v in values]
            cells += [f"× {growth(values):.2f}", f"{min(relative):.2g}–{max(relative):.2g}"]
        lines.append(f"| {LABELS[rule]} | {' | '.join(cells)} |")
    unit = found["resnet"]["ResNet-112"].responses
    third = len(unit) // 3
    lines += ["", "A pre-activation ResNet-112 as it starts, three groups of 18 units (figure 5):", ""]
    lines += ["| group | variance after its first unit | after its last |", "|---|---:|---:|"]
    lines += [f"| {g + 1} | {unit[g * third]:.2f} | {unit[(g + 1) * third - 1]:.2f} |" for g in range(3)]
    names = next(iter(found["hourglass"].values())).names
    lines += ["", "Sums of the two branches in a plain hourglass (figure 6), innermost first:", ""]
    lines += [f"| skips | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    lines += [f"| {k} | {' | '.join(f'{v:.2f}' for v in t.responses)} |" for k, t in found["hourglass"].items()]
    lines += [
        "",
        "Outputs of the hourglasses in 8 stacks of PRM-B* (with batch norm, 64 features), first and last stack:",
        "",
        "| initialization | response, stack 1 | stack 8 | gradient, stack 8 | stack 1 |",
        "|---|---:|---:|---:|---:|",
    ]
    for rule, t in found["stacks"].items():
        r, g = t.responses, t.gradients
        lines.append(f"| {LABELS[rule]} | {r[0]:.2f} | {r[-1]:.2f} | {g[-1]:.3f} | {g[0]:.3g} |")
    return "\n".join(lines)


def write_variance(folder: Path, command: str, seed: int = 0) -> str:
    """Measure, write variance.json, table.md and four pictures into ``folder``; returns the tables."""
    found = measure(seed)
    text = tables(found)
    content = {"command": command, **{k: {n: dataclasses.asdict(t) for n, t in v.items()} for k, v in found.items()}}
    atomic_write(folder / "variance.json", lambda file: file.write(json.dumps(content, indent=1).encode()))
    atomic_write(folder / "table.md", lambda file: file.write(f"{text}\n\nMade by `{command}`.\n".encode()))
    _draw_lines(found["branches"], folder / "branches.png", "4 branches a module, no batch norm", "module")
    _draw_lines(found["stacks"], folder / "stacks.png", "8 stacks of PRM-B*, outputs of the hourglasses", "stack")
    _draw_resnet(found["resnet"]["ResNet-112"], folder / "resnet.png")
    _draw_hourglass(found["hourglass"], folder / "hourglass.png")
    return text


def _draw_lines(traces: dict[str, Trace], path: Path, title: str, place: str) -> None:
    """Responses forwards and gradients backwards, a line for each initialization."""
    figure, axes = new_figure(title, columns=2)
    styles = ("-", "--", "-.", ":")
    for (rule, one), style in zip(traces.items(), styles, strict=False):
        steps = range(1, len(one.names) + 1)
        for axis, values in zip(axes, (one.responses, one.gradients), strict=True):
            axis.plot(steps, values, style, label=LABELS[rule])
    for axis, what in zip(axes, ("responses", "gradients"), strict=True):
        axis.set_xticks(steps if len(steps) < 10 else steps[::2])
        axis.set(xlabel=place, ylabel=f"variance of {what}", yscale="log")
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _draw_resnet(one: Trace, path: Path) -> None:
    figure, (axis,) = new_figure("ResNet-112 as it starts: variance after every unit")
    colors = ["tab:orange" if name.endswith("1x1") else "tab:blue" for name in one.names]
    axis.bar(range(1, len(colors) + 1), one.responses, color=colors)
    axis.set(xlabel="unit (orange: a 1x1 instead of the identity skip)", ylabel="variance")
    figure.savefig(path, dpi=110)


def _draw_hourglass(traces: dict[str, Trace], path: Path) -> None:
    figure, (axis,) = new_figure("sums of two branches in a plain hourglass")
    names: list[Any] = next(iter(traces.values())).names
    for shift, (label, one) in enumerate(traces.items()):
        axis.bar([i + 0.4 * shift for i in range(len(names))], one.responses, width=0.4, label=label)
    axis.set(xticks=[i + 0.2 for i in range(len(names))], xticklabels=names, ylabel="variance")
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)
