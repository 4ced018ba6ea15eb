"""`python -m bench.gpu`: operators and the whole network on this GPU beside native PyTorch, within ten minutes.

Writes bench/results/<gpu>.json, in the schema of all results: `python -m bench.report` makes tables and pictures of it.
The network comes first: inference and training step of 2 and 8 stacks, eager in TF32, compiled in bf16, and ours. What
is not begun when the budget is used up is left out, and named.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from bench import model, record, timing
from bench.forms import Case
from bench.gpu_operators import CASES, DTYPES, measure
from bench.paired import COPY, LAYOUTS
from pyranet_fast import cli
from pyranet_fast.models.zoo import resolve_device

FORMS = (
    "eager channels_last fp32",
    "eager channels_last bf16",
    "compiled channels_last bf16",
    "ours fp32",
    "ours bf16",
    "ours graphed bf16",
    "compiled graphed channels_last bf16",
)
PARTS = ("model", "operators")
TINY = {"features": 8, "depth": 1, "base_width": 4}


def ceilings(device: str, tiny: bool) -> dict[str, float]:
    """What this device can do at most, measured now: a copy, and a bf16 matrix product."""
    size, side = (2**20, 256) if tiny else (2**31, 8192)
    copy = timing.copy_of(size, device)
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    steps = {"copy": copy, "product": lambda: a @ a}
    for step in steps.values():
        step()
    times = {name: timing.summary(t)["ms"] for name, t in timing.in_rounds(steps, 11, device).items()}
    return {
        "copy_GB_per_s": timing.figure(size / times["copy"] / 1e6),
        "bf16_matmul_TFLOP_per_s": timing.figure(2 * side**3 / times["product"] / 1e9),
    }


def network(device: str, tiny: bool, arguments: argparse.Namespace, minutes: float | None, **more: Any) -> None:
    """The model part: stacks 2, then 8."""
    side = 32 if tiny else 256
    stacks, batches, training = ((1, 2), (1, 2), 2) if tiny else ((2, 8), (1, 64), 16)
    size = TINY if tiny else {}
    cases = []
    for count in stacks:
        cases += [Case("inference", count, batch, side, device, **size) for batch in batches]  # type: ignore[arg-type]
        cases.append(Case("training", count, training, side, device, **size))  # type: ignore[arg-type]
    settings = model.Settings(
        3 if tiny else 15, "compiled", arguments.compile_limit, arguments.threads, keep_pages=False
    )
    forms = [name for name in FORMS if not (arguments.no_compile and name.startswith("compiled"))]

    def write(rows: list[dict[str, Any]]) -> None:
        record.write("model", rows, device, name=arguments.name, threads=arguments.threads, **more)

    model.run(cases, forms, settings, budget=minutes, write=write)


def operators(device: str, tiny: bool, arguments: argparse.Namespace, until: float, **more: Any) -> bool:
    """The operators' part; whether all was done. Half of the time is for compiled forms, which are left out then."""
    rows: list[dict[str, Any]] = []
    compile_until = (time.perf_counter() + until) / 2
    left = 0
    for operator in arguments.operators:
        _, shapes, differentiable = CASES[operator]
        for shape in [(2, 3, 16, 16)] if tiny else shapes:
            for dtype in DTYPES:
                for layout in LAYOUTS:
                    for backward in (False, True) if differentiable else (False,):
                        if time.perf_counter() > until:
                            left += 1
                            continue
                        try:
                            found = measure(
                                operator, shape, dtype, layout, backward, device, rounds=3 if tiny else 11,
                                compiled=not arguments.no_compile and time.perf_counter() < compile_until,
                            )  # fmt: skip
                        except torch.OutOfMemoryError:
                            print(f"{operator}, {shape}, {dtype}, {layout}: not timed: out of memory", flush=True)
                            continue
                        rows += found
                        say(found)
    record.write("operators", rows, device, name=arguments.name, threads=arguments.threads, **more)
    if left:
        print(f"left out: {left} cases of operators, for the time of --budget was used up", flush=True)
    return not left


def say(rows: list[dict[str, Any]]) -> None:
    """A line for a case."""
    one = rows[0]
    words = [one["operator"], str(one["shape"]), one["dtype"], one["layout"], one["direction"]]
    figures = [f"{row['form']} {row['ms']} ms" if "ms" in row else f"{row['form']}: {row['failed']}" for row in rows]
    shares = [f"{row['of_copy']:.0%} of a copy" for row in rows if "of_copy" in row and row["form"] != COPY][:1]
    print(f"{', '.join(words)}: {'; '.join([*figures, *shares])}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a line a case, write the file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="(default: both)")
    parser.add_argument("--operators", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--budget", type=float, default=9, metavar="MINUTES", help="(default: %(default)s)")
    parser.add_argument("--compile-limit", type=float, default=90, metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled forms")
    parser.add_argument("--threads", type=int, default=8, help="of the CPU (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N; cpu with --tiny (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="every path in seconds; the numbers mean nothing")
    parser.add_argument("--name", help="file in bench/results, or a path to a .json (default: the GPU's)")
    arguments = parser.parse_args(argv)
    model.check(parser, arguments)
    device = str(resolve_device(arguments.device))
    if device == "cpu" and not arguments.tiny:
        parser.error("--device cpu goes with --tiny alone; python -m bench.model and pytest bench are for the CPU")
    begun = time.perf_counter()
    model.set_up(device, arguments.threads, keep=False)
    most = ceilings(device, arguments.tiny)
    print(record.machine(device, arguments.threads), most, flush=True)
    if "model" in arguments.parts:
        share = 0.6 if "operators" in arguments.parts else 1.0
        network(device, arguments.tiny, arguments, arguments.budget * share, ceilings=most)
    if "operators" in arguments.parts:
        operators(device, arguments.tiny, arguments, begun + 60 * arguments.budget, ceilings=most)
    path = record.path_of(arguments.name or record.machine_name(device, arguments.threads))
    print(f"written: {path}, after {time.perf_counter() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
