"""`python -m bench.model`: inference and training step of the entire network against plain PyTorch.

All forms of a case run one after another, round by round, so that whatever else the machine does falls on all of them;
the ratio is the median over rounds of the best plain form's time to ours. Parity with the plain network in float32 is
checked before a form is timed, and a form that disagrees gets no number. First call, compilation included, and peak
memory are measured in a process of their own for every form, which --compile-limit ends.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import runner
from bench.cases import FORMS, MODES, Case, Form, Inputs, Prepared, difference, forms_of, prepare, tolerance
from pyranet_fast import cli
from pyranet_fast.models import complexity
from pyranet_fast.models.optimized.folding import PRECISIONS
from pyranet_fast.models.zoo import resolve_device
from pyranet_fast.ops.cpu import fused_pointwise, policy

ISOLATE = ("all", "compiled", "uncompiled", "none")
# A compiled training step draws its windows, so its loss is only near the one with fixed windows.
NEAR = 0.1

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How to measure; see the flags of the same names."""

    rounds: int = 15
    isolate: str = "none"
    compile_limit: float = 600.0
    threads: int = 2
    keep_pages: bool = False

    def isolates(self, form: Form) -> bool:
        """Whether the form's first call and memory are measured in a process of its own."""
        return self.isolate in ("all", "compiled" if form.compiled else "uncompiled")


class NoNumber(Exception):
    """A form cannot be timed, for the reason in the message."""


def measure(case: Case, forms: Sequence[Form], options: RunOptions, *, until: float | None = None) -> Rows:
    """One row for every form of a case; ``failed`` instead of numbers where there are none.

    Args:
        case: what the forms share.
        forms: plain ones and ours.
        options: how to measure.
        until: time.perf_counter() after which no further form but our own, and after three rounds no further round,
            begins.
    """
    inputs = Inputs(case)
    complexity_of_one = complexity(inputs.source, (1, 3, case.side, case.side))
    work = runner.significant(complexity_of_one.flops * case.batch / 1e9, 5)
    rows: Rows = []
    ready: dict[str, Prepared] = {}
    for form in forms:
        row: dict[str, Any] = {**dataclasses.asdict(case), "form": form.name, "GFLOP": work}
        rows.append(row)
        torch._dynamo.reset()
        try:
            late = until is not None and time.perf_counter() > until
            if late and (form.plain or form.compiled):  # our own forms are what a run is for
                raise NoNumber("left out: the time of --budget was used up")
            ready[form.name] = _checked(form, inputs, options, row)
        except NoNumber as error:
            row["failed"] = str(error)
        except Exception as error:  # a form that cannot run must not end the run of the others
            reason = (str(error).strip().splitlines() or [""])[0]
            row["failed"] = f"{type(error).__name__}: {reason[:200]}"
        if "failed" in row:
            for name in ("first_s", "peak_MB"):
                row.pop(name, None)
            print(f"{case}, {form.name}: not timed: {row['failed']}", flush=True)
    steps = {name: prepared.step for name, prepared in ready.items()}
    times = runner.in_rounds(steps, options.rounds, case.device, until=until, warm=case.mode == "inference")
    peaks = product_peaks(options.rounds) if case.mode == "inference" and case.device_type == "cpu" else {}
    best_plain = runner.fastest(times, [form.name for form in forms if form.plain])
    for row in rows:
        if (own := times.get(row["form"])) is None:
            continue
        row.update(runner.summary(own))
        row["images_per_s"] = runner.significant(1e3 * case.batch / row["ms"])
        if (peak := peaks.get(FORMS[row["form"]].precision or "fp32")) is not None:
            row["GFLOP_per_s"] = runner.significant(work / row["ms"] * 1e3)
            row["of_product"] = runner.significant(row["GFLOP_per_s"] / peak, 3)
        if best_plain is not None:
            row["times_the_best_plain"] = runner.median_ratio(times[best_plain], own)
        print(
            f"{case}, {row['form']}: {row['ms']} ms, first call {row['first_s']} s, "
            f"{row.get('peak_MB', '-')} MB, x{row.get('times_the_best_plain', '-')}",
            flush=True,
        )
    return rows


def product_peaks(rounds: int) -> dict[str, float]:
    """Gflop/s by precision of the fastest large product that is at hand: PyTorch's, oneDNN's 1x1 or ours."""
    peaks = {}
    for precision, dtype in PRECISIONS.items():
        if precision == "fp16":
            continue
        c, side = 256, 64
        x = torch.randn(4, c, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(c, c, 1, 1).to(dtype).contiguous(memory_format=torch.channels_last)
        a, b = x.permute(0, 2, 3, 1).reshape(-1, c), weight.flatten(1).t().contiguous()
        ways: list[Callable[[], Any]] = [partial(torch.mm, a, b), partial(torch.conv2d, x, weight)]
        if policy.supports_fused_pointwise(x, weight):
            branches = fused_pointwise.prepack([(None, None)], [(weight, torch.zeros(c), False)])
            ways.append(partial(fused_pointwise.fused_pointwise, x, None, branches))
        with torch.inference_mode():
            best = min(min(runner.seconds(way, "cpu") for _ in range(rounds)) for way in ways)
        peaks[precision] = 2 * a.numel() * c / best / 1e9
    return peaks


def _checked(form: Form, inputs: Inputs, options: RunOptions, row: dict[str, Any]) -> Prepared:
    """Prepares a form and checks its results; puts the difference, first call and peak memory into its row.

    Raises:
        NoNumber: its results differ, or its own process failed.
    """
    case, isolated = inputs.case, options.isolates(form)
    if isolated and form.compiled:  # compiles within the limit; this process then finds the code in the cache
        row.update(_in_own_process(form, case, options))
    before = torch.cuda.memory_allocated() if case.device_type == "cuda" else 0
    prepared = prepare(form, inputs)
    results, took = _first_results(form, inputs, prepared)
    exact = inputs.plain_results()
    error = difference(results, {name: exact[name] for name in results} if form.exported else exact)
    row["difference"] = runner.significant(error, 2) if error < float("inf") else 1e9
    if not error < (allowed := tolerance(case, form)):
        raise NoNumber(f"differs from the plain network by {error:.2g}, above {allowed:g}")
    if isolated and not form.compiled:
        row.update(_in_own_process(form, case, options))
    row.setdefault("first_s", runner.significant(took, 3))
    prepared.step()
    if case.device_type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        prepared.step()
        torch.cuda.synchronize()
        row["peak_MB"] = runner.significant((torch.cuda.max_memory_allocated() - before) / 1e6)
    return prepared


def _first_results(form: Form, inputs: Inputs, prepared: Prepared) -> tuple[dict[str, Tensor], float]:
    """The results to compare, and the seconds of the form's first call."""
    case = inputs.case
    if not form.compiled or case.mode == "inference":
        results, took = runner.first_call(prepared.results, case.device)
        return results, took + prepared.made_s
    # The results of a compiled training step come from its uncompiled network, so its own loss is looked at too.
    results = prepared.results()
    loss, took = runner.first_call(prepared.step, case.device)
    if not (error := difference({"loss": loss}, {"loss": inputs.plain_results()["loss"]})) < NEAR:
        raise NoNumber(f"its loss differs from the plain network's by {error:.2g}")
    return results, took


def _in_own_process(form: Form, case: Case, options: RunOptions) -> dict[str, Any]:
    found = runner.in_own_process(
        form, case, threads=options.threads, keep_pages=options.keep_pages, limit=options.compile_limit
    )
    if "failed" in found:
        raise NoNumber(found["failed"])
    return found


@contextmanager
def fresh_compiler_cache() -> Iterator[None]:
    """Hides what earlier runs compiled from torch.compile inside the block, so that first calls are cold."""
    with tempfile.TemporaryDirectory(prefix="bench-compiled-") as folder:
        before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def measure_all(
    cases: Sequence[Case],
    forms: Sequence[str],
    options: RunOptions,
    *,
    write: Callable[[Rows], None],
    budget: float | None = None,
) -> None:
    """Measures the cases, each within an even share of the ``budget`` (minutes) left; ``write(rows)`` after each."""
    end = None if budget is None else time.perf_counter() + 60 * budget
    rows: Rows = []
    with fresh_compiler_cache():
        for number, case in enumerate(cases):
            now = time.perf_counter()
            until = None if end is None else now + max(0.0, end - now) / (len(cases) - number)
            try:
                rows += measure(case, forms_of(case, list(forms)), options, until=until)
            except torch.OutOfMemoryError:
                print(f"{case}: not timed: out of memory", flush=True)
            write(rows)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that this command and `bench.growth` share."""
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--no-compile", action="store_true", help="skip compiled forms")
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--budget", type=float, metavar="MINUTES", help="time limit; forms that have not started by then are skipped"
    )
    parser.add_argument(
        "--compile-limit",
        type=float,
        default=600,
        metavar="SECONDS",
        help="time limit of a form measured in its own process (default: 600)",
    )
    parser.add_argument(
        "--isolate", choices=ISOLATE, help="forms whose first call and memory are measured in a separate process, "
        "which compiles them twice; default: all on the CPU, compiled ones on a GPU",
    )  # fmt: skip
    parser.add_argument(
        "--keep-pages", action="store_true", help="use the allocator settings of the commands for all forms"
    )
    parser.add_argument("--features", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--depth", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--base-width", type=int, default=9, help="(default: %(default)s)")
    runner.add_isa_flag(parser)
    parser.add_argument(
        "--name", help="file name in bench/results, or path of a .json file (default: that of the machine)"
    )


def options_of(arguments: argparse.Namespace, device: str) -> RunOptions:
    """The options that the flags of `add_flags` ask for."""
    isolate = arguments.isolate or ("compiled" if torch.device(device).type == "cuda" else "all")
    return RunOptions(arguments.rounds, isolate, arguments.compile_limit, arguments.threads, arguments.keep_pages)


def chosen_forms(arguments: argparse.Namespace, default: Sequence[str] = tuple(FORMS)) -> list[str]:
    """The forms that the flags of `add_flags` ask for."""
    return [n for n in arguments.forms or default if not (arguments.no_compile and FORMS[n].compiled)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints a line a form and writes the file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--stacks", nargs="+", type=int, default=[2, 8])
    parser.add_argument("--batches", nargs="+", type=int, help="batch sizes of inference (default: 1 4; 1 64 on a GPU)")
    parser.add_argument("--training-batch", type=int, help="(default: 4; 16 on a GPU)")
    parser.add_argument("--input-size", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--levels", type=int, default=4, help="(default: %(default)s)")
    add_flags(parser)
    arguments = parser.parse_args(argv)
    runner.check_positive(parser, arguments)
    runner.limit_isa(arguments.isa)
    device = str(resolve_device(arguments.device))
    on_gpu = torch.device(device).type == "cuda"
    kept = runner.set_up(device, arguments.threads, arguments.keep_pages)
    batches = {
        "inference": arguments.batches or ([1, 64] if on_gpu else [1, 4]),
        "training": [arguments.training_batch or (16 if on_gpu else 4)],
    }
    cases = [
        Case(mode, stacks, batch, arguments.input_size, device, arguments.features, arguments.depth, arguments.levels,
             arguments.base_width)
        for stacks in arguments.stacks for mode in arguments.modes for batch in batches[mode]
    ]  # fmt: skip

    def write(rows: Rows) -> None:
        path = runner.write_results(
            "model", rows, device, name=arguments.name, threads=arguments.threads, keep_pages=kept
        )
        print(f"written: {path}", flush=True)

    options = options_of(arguments, device)
    measure_all(cases, chosen_forms(arguments), options, write=write, budget=arguments.budget)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
