"""`python -m bench.model`: the whole network, inference and training step, beside plain PyTorch in its forms.

All forms of a case run one after another, round by round, so that whatever else the machine does falls on all of them;
the ratio is the median over rounds of the best plain form's time to ours. Parity with the plain network in float32 is
checked before a form is timed, and a form that disagrees gets no number. First call, compilation included, and peak
memory are measured in a process of their own for every form, which --compile-limit ends.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from bench import cold, record, timing
from bench.forms import FORMS, MODES, Case, Data, Form, Prepared, difference, forms_of, prepare, tolerance
from pyranet_fast import cli
from pyranet_fast.cli import keep_pages
from pyranet_fast.models import complexity
from pyranet_fast.models.zoo import resolve_device

ISOLATE = ("all", "compiled", "uncompiled", "none")
# Windows are drawn in a compiled training step, so its loss is only near the one with fixed windows.
NEAR = 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to measure; see the flags of the same names."""

    rounds: int = 15
    isolate: str = "none"
    compile_limit: float = 600.0
    threads: int = 2
    keep_pages: bool = False


def measure(
    case: Case, forms: Sequence[Form], settings: Settings, *, until: float | None = None
) -> list[dict[str, Any]]:
    """One row for every form of a case; ``failed`` instead of numbers where there are none.

    Args:
        case: what the forms share.
        forms: plain ones and ours.
        settings: how to measure.
        until: time.perf_counter() after which no further form and no further round begins (but three).
    """
    data = Data(case)
    work = timing.figure(complexity(data.source, (1, 3, case.side, case.side)).flops * case.batch / 1e9, 5)
    rows: list[dict[str, Any]] = []
    ready: dict[str, Prepared] = {}
    for form in forms:
        row: dict[str, Any] = {**dataclasses.asdict(case), "form": form.name, "GFLOP": work}
        rows.append(row)
        if until is not None and time.perf_counter() > until:
            row["failed"] = "left out: the time of --budget was used up"
        else:
            row.update(_checked(form, data, settings, ready))
        if "failed" in row:
            for name in ("first_s", "peak_MB"):
                row.pop(name, None)
            print(f"{case}, {form.name}: not timed: {row['failed']}", flush=True)
    times = timing.in_rounds({n: p.step for n, p in ready.items()}, settings.rounds, case.device, until=until)
    plain = timing.best(times, [form.name for form in forms if form.plain])
    for row in rows:
        if (own := times.get(row["form"])) is None:
            continue
        row.update(timing.summary(own))
        row["images_per_s"] = timing.figure(1e3 * case.batch / row["ms"])
        if plain is not None:
            row["times_the_best_plain"] = timing.median_ratio(times[plain], own)
        print(
            f"{case}, {row['form']}: {row['ms']} ms, first call {row['first_s']} s, "
            f"{row.get('peak_MB', '-')} MB, x{row.get('times_the_best_plain', '-')}",
            flush=True,
        )
    return rows


def _checked(form: Form, data: Data, settings: Settings, ready: dict[str, Prepared]) -> dict[str, Any]:
    """Prepare a form, check it, and put it among the ``ready``; what the row has to say so far."""
    case, row = data.case, dict[str, Any]()
    alone = settings.isolate in ("all", "compiled" if form.compiled else "uncompiled")
    torch._dynamo.reset()
    try:
        if alone and form.compiled:  # compiles within the limit, and what follows finds it in the cache
            row.update(_alone(form, case, settings))
            if "failed" in row:
                return row
        before = torch.cuda.memory_allocated() if case.kind == "cuda" else 0
        prepared = prepare(form, data)
        if not form.compiled or case.mode == "inference":
            start = time.perf_counter()
            results = prepared.results()
            timing.synchronise(case.device)
            took = time.perf_counter() - start + prepared.made_s
        else:
            results = prepared.results()
            start = time.perf_counter()
            loss = prepared.step()
            timing.synchronise(case.device)
            took = time.perf_counter() - start
            if not (error := difference({"loss": loss}, {"loss": data.plain_results()["loss"]})) < NEAR:
                return {**row, "failed": f"its loss differs from the plain network's by {error:.2g}"}
        error = difference(results, data.plain_results())
        row["difference"] = timing.figure(error, 2) if error < float("inf") else 1e9
        if not error < (allowed := tolerance(case, form)):
            return {**row, "failed": f"differs from the plain network by {error:.2g}, above {allowed:g}"}
        if alone and not form.compiled:
            row.update(_alone(form, case, settings))
            if "failed" in row:
                return row
        row.setdefault("first_s", timing.figure(took, 3))
        prepared.step()
        if case.kind == "cuda":
            torch.cuda.reset_peak_memory_stats()
            prepared.step()
            torch.cuda.synchronize()
            row["peak_MB"] = timing.figure((torch.cuda.max_memory_allocated() - before) / 1e6)
    except Exception as error:  # a form that cannot run must not end the run of the others
        reason = (str(error).strip().splitlines() or [""])[0]
        return {**row, "failed": f"{type(error).__name__}: {reason[:200]}"}
    ready[form.name] = prepared
    return row


def _alone(form: Form, case: Case, settings: Settings) -> dict[str, Any]:
    return cold.elsewhere(
        form, case, threads=settings.threads, keep_pages=settings.keep_pages, limit=settings.compile_limit
    )


@contextmanager
def fresh_compiler_cache() -> Iterator[None]:
    """Inside, torch.compile finds nothing of earlier runs, so that first calls are cold."""
    with tempfile.TemporaryDirectory(prefix="bench-compiled-") as folder:
        before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def run(
    cases: Sequence[Case],
    forms: Sequence[str],
    settings: Settings,
    *,
    budget: float | None = None,
    write: Any = None,
) -> list[dict[str, Any]]:
    """All cases, each with an even share of the ``budget`` (minutes) that is left; ``write(rows)`` after each."""
    end = None if budget is None else time.perf_counter() + 60 * budget
    rows: list[dict[str, Any]] = []
    with fresh_compiler_cache():
        for number, case in enumerate(cases):
            now = time.perf_counter()
            until = None if end is None else now + max(0.0, end - now) / (len(cases) - number)
            try:
                rows += measure(case, forms_of(case, list(forms)), settings, until=until)
            except torch.OutOfMemoryError:
                print(f"{case}: not timed: out of memory", flush=True)
            if write is not None:
                write(rows)
    return rows


def set_up(device: str, threads: int, keep: bool) -> bool:
    """Threads, TF32, allocator; whether the allocator keeps pages. SIGTERM ends a form's own process too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(threads)
    if torch.device(device).type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return keep_pages() if keep else False


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What model and growth share."""
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled forms")
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="what is not begun by then is left out")
    parser.add_argument(
        "--compile-limit", type=float, default=600, metavar="SECONDS", help="of a form's own process (default: 600)"
    )
    parser.add_argument(
        "--isolate", choices=ISOLATE, help="whose first call and memory are measured in a process of its own, where "
        "compiled ones are then compiled twice; default: all on the CPU, compiled on a GPU",
    )  # fmt: skip
    parser.add_argument("--keep-pages", action="store_true", help="set the allocator as the commands do, for all forms")
    parser.add_argument("--features", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--depth", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--base-width", type=int, default=9, help="(default: %(default)s)")
    parser.add_argument("--name", help="file in bench/results, or a path to a .json (default: the machine's)")


def settings_of(arguments: argparse.Namespace, device: str) -> Settings:
    """The flags of `add_flags` as settings."""
    isolate = arguments.isolate or ("compiled" if torch.device(device).type == "cuda" else "all")
    limit, keep = arguments.compile_limit, arguments.keep_pages
    return Settings(arguments.rounds, isolate, limit, arguments.threads, keep)


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Whole numbers above 0 where they are needed."""
    for name, value in vars(arguments).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool) and not number > 0:
                parser.error(f"--{name.replace('_', '-')} is {number}; a number above 0 is accepted")


def chosen(arguments: argparse.Namespace, default: Sequence[str] = tuple(FORMS)) -> list[str]:
    """The forms asked for."""
    return [n for n in arguments.forms or default if not (arguments.no_compile and FORMS[n].compiled)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a line a form, write the file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--stacks", nargs="+", type=int, default=[2, 8])
    parser.add_argument("--batches", nargs="+", type=int, help="of inference (default: 1 4; 1 64 on a GPU)")
    parser.add_argument("--training-batch", type=int, help="(default: 4; 16 on a GPU)")
    parser.add_argument("--input-size", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--levels", type=int, default=4, help="(default: %(default)s)")
    add_flags(parser)
    arguments = parser.parse_args(argv)
    check(parser, arguments)
    device = str(resolve_device(arguments.device))
    on_gpu = torch.device(device).type == "cuda"
    kept = set_up(device, arguments.threads, arguments.keep_pages)
    batches = {
        "inference": arguments.batches or ([1, 64] if on_gpu else [1, 4]),
        "training": [arguments.training_batch or (16 if on_gpu else 4)],
    }
    cases = [
        Case(mode, stacks, batch, arguments.input_size, device, arguments.features, arguments.depth, arguments.levels,
             arguments.base_width)
        for stacks in arguments.stacks for mode in arguments.modes for batch in batches[mode]
    ]  # fmt: skip

    def write(rows: list[dict[str, Any]]) -> None:
        path = record.write("model", rows, device, name=arguments.name, threads=arguments.threads, keep_pages=kept)
        print(f"written: {path}", flush=True)

    run(cases, chosen(arguments), settings_of(arguments, device), budget=arguments.budget, write=write)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
