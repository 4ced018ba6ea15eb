"""`python -m bench.gpu`: benchmark operators and the network on this GPU against native PyTorch, within ten minutes.

Writes bench/results/<gpu>.json, in the schema of all results: `python -m bench.report` makes tables and pictures of it.
The network comes first: inference and training step of 2 and 8 stacks, ours, eager in TF32, compiled in bf16. What is
not begun when the budget is used up is left out, and named; our own forms never are.

Operators are timed in replays of a CUDA graph of many calls, so that Python's part of a call counts for nothing, in
rounds with a copy of as many bytes; a form that cannot be recorded is timed call by call, and named. A form that
disagrees with native float32 gets no number.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench import model, runner
from bench.cases import DTYPES, LAYOUTS, Case
from bench.operators import COPY, OPERATORS, Function, OperatorCase, gpu_cases, rows_of, step_of
from pyranet_fast import cli, ops
from pyranet_fast.models.optimized.graphs import CudaCapture
from pyranet_fast.models.zoo import resolve_device
from pyranet_fast.ops import dispatch

# Compiled forms last: a case's share of the time may be over when they are compiled.
FORMS = (
    "ours bf16",
    "ours graphed bf16",
    "ours fp32",
    "eager channels_last bf16",
    "eager channels_last fp32",
    "compiled channels_last bf16",
    "compiled graphed channels_last bf16",
)
PARTS = ("model", "operators")
ON_GPU = tuple(name for name, operator in OPERATORS.items() if operator.gpu_shapes)


def measured_ceilings(device: str, tiny: bool) -> dict[str, float]:
    """The most this device reaches, measured now: bytes a second of a copy, FLOP a second of a bf16 matrix product."""
    size, side = (2**20, 256) if tiny else (2**31, 8192)
    copy = runner.copy_of(size, device)
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    steps = {"copy": copy, "product": lambda: a @ a}
    for step in steps.values():
        step()
    times = {name: runner.summary(t)["ms"] for name, t in runner.in_rounds(steps, 11, device).items()}
    return {
        "copy_GB_per_s": runner.significant(size / times["copy"] / 1e6),
        "bf16_matmul_TFLOP_per_s": runner.significant(2 * side**3 / times["product"] / 1e9),
    }


# --- network ----------------------------------------------------------------------------------------------------------


def measure_network(arguments: argparse.Namespace, device: str, minutes: float, **more: Any) -> None:
    """Measures and writes the model part: the small network first."""
    if arguments.tiny:
        base = Case("inference", 1, 1, 32, device, features=8, depth=1, base_width=4)
        stacks, batches, training_batch = (1, 2), (1, 2), 2
    else:
        base = Case("inference", 2, 1, 256, device)
        stacks, batches, training_batch = (2, 8), (1, 64), 16
    cases = []
    for count in stacks:
        cases += [dataclasses.replace(base, stacks=count, batch=batch) for batch in batches]
        cases.append(dataclasses.replace(base, mode="training", stacks=count, batch=training_batch))
    options = model.RunOptions(3 if arguments.tiny else 15, "compiled", arguments.compile_limit, arguments.threads)
    forms = [name for name in FORMS if not (arguments.no_compile and name.startswith("compiled"))]

    def write(rows: list[dict[str, Any]]) -> None:
        runner.write_results("model", rows, device, name=arguments.name, threads=arguments.threads, **more)

    model.measure_all(cases, forms, options, write=write, budget=minutes)


# --- operators --------------------------------------------------------------------------------------------------------


def backends(device: str) -> list[str]:
    """Our backends that have kernels for the device."""
    kind = torch.device(device).type
    native, triton = kind in dispatch.native_devices(), "triton" in ops.available_backends()
    if kind == "cuda":
        native, triton = dispatch.native_on().here, triton and dispatch.triton_on().here
    triton = triton and kind in dispatch.triton_devices()
    return [*(["native"] if native else []), *(["triton"] if triton else [])]


def on_backend(name: str, function: Function) -> Function:
    """The function with our operators on one backend."""

    def run(*inputs: Tensor) -> list[Tensor]:
        with ops.backend(name):
            return function(*inputs)

    return run


def agrees(case: OperatorCase, results: list[Tensor], float32: list[Tensor]) -> bool:
    """Whether results are those of native float32, within the dtype."""
    if case.operator == "heatmap_argmax":  # PyTorch leaves open which of equal maxima wins; bf16 has many of them
        near = ((results[0] - float32[0]).abs() <= 0.25).all(2).float().mean().item()
        return bool((results[1].float() == float32[1]).all()) and (case.dtype == "bf16" or near > 0.999)
    tolerance = 1e-4 if case.dtype == "fp32" else 3e-2
    pairs = zip(results, float32, strict=True)
    return all(((a.float() - b).norm() <= tolerance * b.norm()).item() for a, b in pairs)


def replayed(step: runner.Step, device: str, calls: int, name: str) -> tuple[runner.Step, int]:
    """A step that makes so many calls, by one replay of a CUDA graph where it can be recorded; and their number."""

    def repeat() -> Any:
        for _ in range(calls):
            result = step()
        return result

    if torch.device(device).type != "cuda":
        return repeat, calls
    capture = CudaCapture(torch.device(device))
    try:
        capture.warm_up(step)
        return capture.record(repeat)[0], calls
    except RuntimeError as error:  # what waits for the host or allocates by other ways cannot be recorded
        torch.cuda.synchronize()
        print(f"{name}: timed call by call: {(str(error).strip().splitlines() or [''])[0][:200]}", flush=True)
        return repeat, calls


def measure_operator(case: OperatorCase, *, rounds: int = 11, compiled: bool = True) -> list[dict[str, Any]]:
    """A row for every form of one case: each of our backends, native eager in both layouts, native compiled, a copy."""
    torch.manual_seed(0)
    operator, device, layout = OPERATORS[case.operator], case.device, case.layout
    work = operator.work(case)
    inputs = [x.to(DTYPES[case.dtype]) for x in work.inputs]
    laid = {name: [x.contiguous(memory_format=form) for x in inputs] for name, form in LAYOUTS.items()}
    float32 = step_of(work.native, [x.float() for x in inputs], "contiguous", case.backward)()
    steps: dict[str, runner.Step] = {
        f"ours, {name}": step_of(on_backend(name, work.ours), laid[layout], layout, case.backward)
        for name in backends(device)
    }
    ours = list(steps)
    for name in LAYOUTS:
        steps[f"eager {name}"] = step_of(work.native, laid[name], name, case.backward)
    if compiled:
        torch._dynamo.reset()
        native = torch.compile(work.native, dynamic=False)
        steps[f"compiled {layout}"] = step_of(native, laid[layout], layout, case.backward)
    steps[COPY] = runner.copy_of(work.size(case), device)
    first, failed, calls = dict[str, float](), dict[str, str](), dict[str, int]()
    for name, step in steps.items():
        try:
            results, first[name] = runner.first_call(step, device)
            compared = name in ours or (name != COPY and not (case.dtype == "bf16" and operator.coarse_in_bf16))
            if compared and not agrees(case, results, float32):
                failed[name] = "differs from native float32"
            else:
                calls[name] = runner.calls_for(step, device)
                steps[name], calls[name] = replayed(step, device, calls[name], name)
        except Exception as error:  # native PyTorch may lack a dtype, Inductor a kernel, the GPU memory
            failed[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    times = runner.in_rounds({name: steps[name] for name in calls}, rounds, device)
    times = {name: [seconds / calls[name] for seconds in taken] for name, taken in times.items()}
    rows = rows_of(case.row, times, first, work.size(case), ours)
    return rows + [{**case.row, "form": name, "failed": why} for name, why in failed.items()]


def measure_operators(arguments: argparse.Namespace, device: str, until: float, **more: Any) -> None:
    """Measures and writes the operators' part; compiled forms are left out in the second half of the time."""
    rows: list[dict[str, Any]] = []
    compile_until = (time.perf_counter() + until) / 2
    shapes = {name: [(2, 3, 16, 16)] if arguments.tiny else OPERATORS[name].gpu_shapes for name in arguments.operators}
    left_out = 0
    for case in (case for name, of in shapes.items() for case in gpu_cases(name, of, device)):
        now = time.perf_counter()
        if now > until:
            left_out += 1
            continue
        compiled = not arguments.no_compile and now < compile_until
        try:
            found = measure_operator(case, rounds=3 if arguments.tiny else 11, compiled=compiled)
        except torch.OutOfMemoryError:
            print(f"{case}: not timed: out of memory", flush=True)
            continue
        rows += found
        say(found)
    runner.write_results("operators", rows, device, name=arguments.name, threads=arguments.threads, **more)
    if left_out:
        print(f"left out: {left_out} cases of operators, for the time of --budget was used up", flush=True)


def say(rows: list[dict[str, Any]]) -> None:
    """Prints a line for a case."""
    one = rows[0]
    words = [one["operator"], str(one["shape"]), one["dtype"], one["layout"], one["direction"]]
    figures = [f"{row['form']} {row['ms']} ms" if "ms" in row else f"{row['form']}: {row['failed']}" for row in rows]
    shares = [f"{row['of_copy']:.0%} of a copy" for row in rows if "of_copy" in row and row["form"] != COPY][:1]
    print(f"{', '.join(words)}: {'; '.join([*figures, *shares])}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints a line a case and writes the file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="(default: both)")
    parser.add_argument("--operators", nargs="+", default=list(ON_GPU), choices=list(ON_GPU))
    parser.add_argument("--budget", type=float, default=9, metavar="MINUTES", help="(default: %(default)s)")
    parser.add_argument("--compile-limit", type=float, default=90, metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--no-compile", action="store_true", help="skip compiled forms")
    parser.add_argument("--threads", type=int, default=8, help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N; cpu with --tiny (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="run every path in seconds; timings are meaningless")
    parser.add_argument("--name", help="file name in bench/results, or path of a .json file (default: that of the GPU)")
    arguments = parser.parse_args(argv)
    runner.check_positive(parser, arguments)
    device = str(resolve_device(arguments.device))
    if device == "cpu" and not arguments.tiny:
        parser.error("--device cpu goes with --tiny alone; python -m bench.model and pytest bench are for the CPU")
    begun = time.perf_counter()
    runner.set_up(device, arguments.threads, keep=False)
    ceilings = measured_ceilings(device, arguments.tiny)
    print(runner.machine(device, arguments.threads), ceilings, flush=True)
    if "model" in arguments.parts:
        share = 0.6 if "operators" in arguments.parts else 1.0
        measure_network(arguments, device, arguments.budget * share, ceilings=ceilings)
    if "operators" in arguments.parts:
        measure_operators(arguments, device, begun + 60 * arguments.budget, ceilings=ceilings)
    path = runner.path_of(arguments.name or runner.machine_name(device, arguments.threads))
    print(f"written: {path}, after {time.perf_counter() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
