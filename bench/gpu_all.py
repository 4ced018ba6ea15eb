"""`python -m bench.gpu_all`, which is `make gpu`: run all GPU checks and benchmarks within ten minutes.

In order: the CUDA kernels are built for this GPU where they are not (by setup.py alone: no pip, no network), every
kernel is checked beside the reference, the tests of tests/gpu run side by side, compute-sanitizer looks at the native
kernels, `bench.gpu` measures, and `bench.gpu_model` says how far its predictions were from that. A step that fails does
not stop the others, and each has a limit of time; the statuses are listed at the end, and the exit status is 1 where
one is not 0.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench import runner
from pyranet_fast import cli
from pyranet_fast.models.zoo import resolve_device
from pyranet_fast.ops import dispatch

ROOT = Path(__file__).parents[1]
PARITY = "tests/gpu/test_gpu_parity.py"
# What the network has: 28 channels and shared or own windows, both layouts; and one case of every other kernel.
MEMORY_CHECKED = "native and (28 or affine or loss or argmax) and (contiguous or channels_last) and not float64"
RACE_CHECKED = "native and (affine or loss) and (contiguous or channels_last) and not float64"  # what has barriers
MIN_BENCH_MINUTES = 2.0


@dataclass
class Step:
    """One command of the recipe.

    Attributes:
        name: as the list of statuses has it.
        command: its arguments; empty: there is nothing to do.
        seconds: at most; it is ended then.
        why: what there is not to do.
        environment: variables beside the present ones.
        needs: the name of a step without whose success this one means nothing.
    """

    name: str
    command: list[str]
    seconds: float
    why: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    needs: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a step ended: ``status`` 0 is good, None was not run."""

    name: str
    status: int | None
    seconds: float
    note: str = ""

    @property
    def bad(self) -> bool:
        """Whether it failed."""
        return self.status not in (0, None)


def run(step: Step) -> Outcome:
    """Run a step with its output on this process's; an own group of processes, so that all of them end with it."""
    if not step.command:
        return Outcome(step.name, None, 0.0, step.why)
    set_up = [f"{name}={shlex.quote(value)}" for name, value in step.environment.items()]
    print(f"\n=== {step.name}: {' '.join([*set_up, shlex.join(step.command)])}", flush=True)
    begun = time.perf_counter()
    try:
        process = subprocess.Popen(
            step.command, cwd=ROOT, env={**os.environ, **step.environment}, start_new_session=True
        )
    except OSError as error:
        return Outcome(step.name, 127, 0.0, str(error))
    note = ""
    try:
        process.wait(step.seconds)
    except subprocess.TimeoutExpired:
        note = f"ended after {step.seconds:.0f} s"
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    return Outcome(step.name, 124 if note else process.returncode, time.perf_counter() - begun, note)


def run_all(steps: Sequence[Step], until: float) -> list[Outcome]:
    """Run all steps, whatever becomes of those before, but for what they need; those begun end by ``until``.

    Args:
        steps: in order.
        until: of time.perf_counter().
    """
    found: list[Outcome] = []
    for step in steps:
        failed = next((o for o in found if o.name == step.needs and o.bad), None)
        left = until - time.perf_counter()
        if failed is not None:
            found.append(Outcome(step.name, 1, 0.0, f"not run: {failed.name} failed"))
        elif left <= 0:
            found.append(Outcome(step.name, 1, 0.0, "not run: the time was over"))
        else:
            step.seconds = min(step.seconds, left)
            found.append(run(step))
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    """A line a step."""
    lines = []
    for outcome in outcomes:
        verdict = "-" if outcome.status is None else "ok" if outcome.status == 0 else f"FAILED ({outcome.status})"
        lines.append(f"  {outcome.name:<22}{verdict:<14}{outcome.seconds:6.0f} s  {outcome.note}".rstrip())
    return "\n".join(lines)


def recipe(device: torch.device, jobs: int, minutes: float, name: str | None) -> list[Step]:
    """The steps for a device; a CPU stands in for a GPU, with small parts of each."""
    python, stand_in = sys.executable, device.type == "cpu"
    quiet = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {"PYRANET_FAST_STAND_IN": "1"} if stand_in else {}
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    side_by_side = ["-p", "no:benchmark", "-n", str(jobs)] if _has("xdist") else []
    tests = [PARITY, "-k", "native and test_add_affine_relu and float32 and contiguous"] if stand_in else ["tests/gpu"]
    steps = [
        _build(device, jobs),
        Step("check", [python, "-m", "pyranet_fast.env", "--check", "--device", str(device)], 60),
        Step("tests", [python, *quiet, *side_by_side, *tests], 60 * minutes / 2, environment=environment),
    ]
    for tool, chosen in (("memcheck", MEMORY_CHECKED), ("racecheck", RACE_CHECKED)):
        command = [str(sanitizer), "--error-exitcode", "9", "--tool", tool, python, *quiet, PARITY, "-k", chosen]
        if stand_in:
            command += ["--maxfail", "1", "--collect-only"]
        missing = "" if sanitizer else "there is no compute-sanitizer"
        steps.append(Step(tool, [] if missing else command, 90, missing, environment, needs="build"))
    measure = [python, "-m", "bench.gpu", "--device", str(device), "--budget", f"{_bench_minutes(minutes):.2g}"]
    small = ["--tiny", "--no-compile", "--threads", "1", "--parts", "operators", "--operators", "heatmap_loss"]
    measure += small if stand_in else []
    measure += ["--name", name] if name else []
    results = runner.path_of(name or runner.machine_name(str(device), 1))
    compare = [python, "-m", "bench.gpu_model", "--results", str(results)]
    nothing = "a CPU has nothing that was predicted"
    model = Step("model", [] if stand_in else compare, 120, nothing if stand_in else "", needs="bench")
    return [*steps, Step("bench", measure, 60 * minutes), model]


def _bench_minutes(minutes: float) -> float:
    return max(MIN_BENCH_MINUTES, 0.4 * minutes)


def _has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def _build(device: torch.device, jobs: int) -> Step:
    """Builds both libraries in place for this GPU alone, where its kernels do not run yet."""
    if device.type == "cpu":
        return Step("build", [], 0, "a CPU stands in for the GPU")
    if dispatch.native_on(device.index).here:
        return Step("build", [], 0, "the kernels are there and run")
    major, minor = torch.cuda.get_device_capability(device)
    environment = {"PYRANET_FAST_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}", "MAX_JOBS": str(jobs)}
    return Step("build", [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], 240, environment=environment)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_all", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N; cpu: a small dry run (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="time limit in total (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=min(16, os.cpu_count() or 1), help="(default: %(default)s)")
    parser.add_argument("--name", help="name of the results, as for bench.gpu")
    arguments = parser.parse_args(argv)
    runner.check_positive(parser, arguments)
    device = resolve_device(arguments.device)
    until = time.perf_counter() + 60 * arguments.minutes
    outcomes = run_all(recipe(device, arguments.jobs, arguments.minutes, arguments.name), until)
    print(f"\n{device}, in {sum(outcome.seconds for outcome in outcomes):.0f} s:\n{table(outcomes)}", flush=True)
    return int(any(outcome.bad for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(cli.run(main))
