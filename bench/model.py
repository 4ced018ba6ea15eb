"""`python -m bench.model`: the whole network, inference and training step, beside plain PyTorch in its best forms.

All forms of a case run one after another, round by round, so that whatever else the machine does falls on all of them;
ratios are medians over rounds. Parity with the plain network in float32 is checked before anything is timed, and a form
that disagrees gets no number. First calls, compilation included, are a column of their own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench import record
from bench.baseline import Baseline, loss
from pyranet_fast import ops
from pyranet_fast.memory import keep_pages
from pyranet_fast.models import PyraNet, optimize_for_inference

Step = Callable[[], Any]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PRECISIONS = ("fp32", "bf16")
PLAIN = [f"{way} {layout} {p}" for way in ("eager", "compiled") for layout in LAYOUTS for p in PRECISIONS]
FORMS = [*PLAIN, *(f"ours {p}" for p in PRECISIONS)]
# Of the norm of the plain float32 maps. Inductor's fractional pooling rounds some windows to a neighbour (1e-3 of the
# norm were seen), which is no reason to leave a rival out.
TOLERANCE = {"ours fp32": 1e-4, "plain fp32": 1e-2, "ours bf16": 0.05, "plain bf16": 0.05}


def synchronise(device: str) -> None:
    """Wait for the GPU, if there is one."""
    if device == "cuda":
        torch.cuda.synchronize()


def weights_of(stacks: int, size: dict[str, Any]) -> PyraNet:
    """A network with statistics as after some training, the same for all forms."""
    torch.manual_seed(0)
    model = PyraNet(stacks, 16, pool_windows="sample", **size)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


def make(
    form: str, mode: str, source: PyraNet, image: Tensor, size: dict[str, Any]
) -> tuple[Step, Callable[[], list[Tensor]]]:
    """The step to time, and a function that returns the score maps for the parity check (inference)."""
    device, precision = image.device.type, form.rsplit(" ", 1)[1]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    layout = LAYOUTS["contiguous" if " contiguous " in form else "channels_last"]
    x = image.contiguous(memory_format=layout)
    model: nn.Module
    if form.startswith("ours"):
        if mode == "inference":
            fast = optimize_for_inference(source, precision).to(device)
            return (lambda: fast(x)), (lambda: fast(x))
        model = PyraNet(**source.config)
    else:
        model = Baseline(len(source.stacks), **size)
    model.load_state_dict(source.state_dict())
    model = model.to(device, memory_format=layout)  # type: ignore[call-overload]
    if mode == "inference":  # bf16 weights: the faster of its two forms
        model = model.eval().to(dtype)
        x = x.to(dtype)
        run: Any = torch.compile(model) if form.startswith("compiled") else model

        def infer() -> list[Tensor]:
            with torch.inference_mode():
                maps: list[Tensor] = run(x)
                return maps

        return infer, infer
    run = torch.compile(model.train()) if form.startswith("compiled") else model.train()
    optimiser = torch.optim.RMSprop(model.parameters(), lr=1e-6, alpha=0.99, foreach=True)
    joints = torch.rand(len(x), 16, 2, generator=torch.Generator().manual_seed(0)).to(device) * (x.shape[3] // 4)
    weight = torch.ones(len(x), 16, device=device)

    def forward() -> list[Tensor]:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            maps: list[Tensor] = run(x)
        return maps

    def train() -> None:
        maps = forward()
        if form.startswith("ours"):
            total = torch.stack([ops.heatmap_loss(m, joints, weight) for m in maps]).sum()
        else:
            total = loss(maps, joints)
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()

    return train, forward


def exact_maps(source: PyraNet, image: Tensor, size: dict[str, Any]) -> list[Tensor]:
    """The plain network's maps in float32, evaluation mode."""
    plain = Baseline(len(source.stacks), **size).to(image.device).eval()
    plain.load_state_dict(source.state_dict())
    with torch.inference_mode():
        maps: list[Tensor] = plain(image)
    return maps


def difference(maps: list[Tensor], exact: list[Tensor]) -> float:
    """The largest difference of a stack's maps, of their norm."""
    return max(((m.float() - e).norm() / e.norm()).item() for m, e in zip(maps, exact, strict=True))


def measure(
    mode: str, stacks: int, batch: int, forms: list[str], *, rounds: int, side: int, device: str, size: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row for every form of one case; `failed` instead of times where a form is out of parity."""
    source = weights_of(stacks, size)
    image = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)
    exact = exact_maps(source, image, size) if mode == "inference" else None
    rows, steps = [], {}
    for form in forms:
        row = {"mode": mode, "stacks": stacks, "batch": batch, "side": side, "form": form, "device": device}
        rows.append(row)
        torch._dynamo.reset()
        step, maps = make(form, mode, source, image, size)
        start = time.perf_counter()
        if exact is not None:
            error = difference(maps(), exact)
            row["difference"] = float(f"{error:.2g}")
            if not error < TOLERANCE[f"{'ours' if form.startswith('ours') else 'plain'} {form.rsplit(' ', 1)[1]}"]:
                row["failed"] = f"differs from the plain network by {error:.2g}"
                print(f"{form}: {row['failed']}; not timed", flush=True)
                continue
        else:
            step()
        synchronise(device)
        row["first_s"] = round(time.perf_counter() - start, 2)
        step()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            row["peak_MB"] = round(torch.cuda.max_memory_allocated() / 1e6)
        steps[form] = step
    times: dict[str, list[float]] = {form: [] for form in steps}
    for _ in range(rounds):
        for form, step in steps.items():
            synchronise(device)
            start = time.perf_counter()
            step()
            synchronise(device)
            times[form].append(time.perf_counter() - start)
    plain = [form for form in times if not form.startswith("ours")]
    best = min(plain, key=lambda form: statistics.median(times[form])) if plain else None
    for row in rows:
        own = times.get(row["form"])
        if own is None:
            continue
        low, middle, high = statistics.quantiles(own, n=4) if len(own) > 1 else own * 3
        row.update(ms=round(middle * 1e3, 2), p25=round(low * 1e3, 2), p75=round(high * 1e3, 2))
        row["images_per_s"] = round(batch / middle, 2)
        if best is not None:
            ratios = [other / one for one, other in zip(own, times[best], strict=True)]
            row["times_the_best_plain"] = round(statistics.median(ratios), 3)
        print(f"{mode}, {stacks} stacks, batch {batch}, {row['form']}: {row['ms']} ms, first {row['first_s']} s, "
              f"x{row.get('times_the_best_plain', '-')}", flush=True)  # fmt: skip
    return rows


def main() -> int:
    """Measure, print a line a form, write the file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modes", nargs="+", default=["inference", "training"], choices=["inference", "training"])
    parser.add_argument("--stacks", nargs="+", type=int, default=[2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4] if device == "cpu" else [1, 64])
    parser.add_argument("--training-batch", type=int, default=4 if device == "cpu" else 16)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--input-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--name", default=f"model-{device}", help="the result's name in bench/results")
    parser.add_argument("--keep-pages", action="store_true", help="as the commands set the allocator; for all forms")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kept = keep_pages() if arguments.keep_pages else False
    size = {"features": arguments.features, "depth": arguments.depth}
    rows: list[dict[str, Any]] = []
    for mode in arguments.modes:
        for stacks in arguments.stacks:
            for batch in arguments.batches if mode == "inference" else [arguments.training_batch]:
                rows += measure(mode, stacks, batch, arguments.forms, rounds=arguments.rounds,
                                side=arguments.input_size, device=device, size=size)  # fmt: skip
                print(f"written: {record.write(arguments.name, device, rows, keep_pages=kept)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
