"""Benchmark runner: times forms in turn, first calls in separate processes, and writes result files.

Rounds: all forms run once in every round, so that whatever else the machine does falls on all of them alike.

First call and peak memory: `in_own_process` starts this module as a process for one form of one case.

Results: bench/results/<machine>.json has one schema for CPU and GPU.

    machine  processor or GPU, threads, versions
    parts    of each part (operators, model, growth, pipeline): command, commit, date and what else held for it
    rows     one for every form of every case; `MEASURED` lists the keys that were measured, all others are the case

Every part replaces its own rows in the file; rows of another machine (other threads, other torch) are dropped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.cases import FORMS, ISAS, Case, Form, Inputs, limited_isa, prepare
from pyranet_fast.cli import keep_pages
from pyranet_fast.errors import UserError

# --- the process ------------------------------------------------------------------------------------------------------


def add_isa_flag(parser: argparse.ArgumentParser) -> None:
    """Adds ``--isa``; `limit_isa` follows it."""
    parser.add_argument(
        "--isa", choices=list(ISAS), help="highest instruction set to use (default: that of the processor)"
    )


def limit_isa(isa: str | None) -> None:
    """Begin this command anew with the variables of an instruction set, unless they are set."""
    if isa is None or limited_isa() == isa:
        return
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        raise RuntimeError(
            "--isa is for python -m bench.…; set its variables: " + " ".join(map("=".join, ISAS[isa].items()))
        )
    module = spec.name.removesuffix(".__main__")
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **ISAS[isa]})


def set_up(device: str, threads: int, keep: bool) -> bool:
    """Sets threads, TF32 and allocator of this process; returns whether the allocator keeps pages.

    SIGTERM raises KeyboardInterrupt, so that `in_own_process` ends its process too.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(threads)
    if torch.device(device).type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return keep_pages() if keep else False


def check_positive(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the command with a message where a number among its arguments is not above 0."""
    for name, value in vars(arguments).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool) and not number > 0:
                parser.error(f"--{name.replace('_', '-')} must be positive, got {number}")


# --- rounds -----------------------------------------------------------------------------------------------------------

Step = Callable[[], Any]
MIN_ROUNDS = 3


def synchronize(device: str) -> None:
    """Waits for the GPU, if the device is one."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds(step: Step, device: str, calls: int = 1) -> float:
    """Time of one call, averaged over so many; the GPU's work is done when the clock stops."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def first_call(step: Step, device: str) -> tuple[Any, float]:
    """What a call returns, and its time in seconds."""
    synchronize(device)
    start = time.perf_counter()
    result = step()
    synchronize(device)
    return result, time.perf_counter() - start


def calls_for(step: Step, device: str, target: float = 0.01) -> int:
    """Calls that take about ``target`` seconds together, at most 100: short steps are timed in batches."""
    return max(1, min(100, int(target / max(1e-6, seconds(step, device)))))


def in_rounds(
    steps: Mapping[str, Step],
    rounds: int,
    device: str,
    *,
    calls: Mapping[str, int] | None = None,
    until: float | None = None,
    warm: bool = False,
) -> dict[str, list[float]]:
    """Seconds of every step in every round; after ``until`` (of time.perf_counter) only the first 3 rounds begin.

    ``warm``: each is called once before its time is taken, so that it has its own data in the caches, and the threads
    of another runtime, which wait for more by spinning, have gone to sleep.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for done in range(rounds):
        if until is not None and done >= MIN_ROUNDS and time.perf_counter() > until:
            break
        for name, step in steps.items():
            if warm:
                step()
            times[name].append(seconds(step, device, calls[name] if calls else 1))
    return times


def significant(value: float, digits: int = 4) -> float:
    """Rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median and quartiles in ms, and the number of rounds."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else list(times) * 3
    return {
        "ms": significant(middle * 1e3), "p25": significant(low * 1e3), "p75": significant(high * 1e3),
        "rounds": len(times),
    }  # fmt: skip


def median_ratio(other: Sequence[float], own: Sequence[float]) -> float:
    """Median over rounds of other / own."""
    return significant(statistics.median(a / b for a, b in zip(other, own, strict=True)), 3)


def fastest(times: Mapping[str, Sequence[float]], among: Sequence[str]) -> str | None:
    """The name with the smallest median among those; None where none of them was timed."""
    timed = [name for name in among if times.get(name)]
    return min(timed, key=lambda name: statistics.median(times[name]), default=None)


def copy_of(size: int, device: str) -> Step:
    """A copy that reads and writes ``size`` bytes in all: the ceiling of an operator that moves as many."""
    source = torch.zeros(max(1, size // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


# --- first call and memory, in a process of their own -----------------------------------------------------------------

ANSWER = "first call: "


def resident_MB(what: str) -> float:
    """VmRSS or VmHWM of this process in MB; 0 where the system does not say."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1e3 for line in file if line.startswith(what))
    except (OSError, StopIteration):
        return 0.0


def reset_peak() -> bool:
    """Makes VmHWM start again at what is resident now; returns whether the system allows it."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def first_call_and_peak(form: Form, case: Case) -> dict[str, float]:
    """``first_s`` and, where it is known, ``peak_MB`` of a form; to be called once in a fresh process."""
    parameter = torch.zeros(1, device=case.device, requires_grad=True)
    parameter.sum().backward()
    torch.optim.RMSprop([parameter]).step()  # what torch imports on first use counts for no form
    before, on_gpu = resident_MB("VmRSS"), case.device_type == "cuda"
    prepared = prepare(form, Inputs(case))
    _, took = first_call(prepared.step, case.device)
    row = {"first_s": significant(took + prepared.made_s, 3)}
    prepared.step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    known = on_gpu or reset_peak()
    seconds(prepared.step, case.device)
    peak = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else resident_MB("VmHWM") - before
    return {**row, "peak_MB": significant(max(peak, 0.0))} if known else row


def in_own_process(form: Form, case: Case, *, threads: int, keep_pages: bool, limit: float) -> dict[str, Any]:
    """`first_call_and_peak` in a fresh process of at most ``limit`` seconds; ``failed`` says why there is no number."""
    request = {"form": form.name, "case": dataclasses.asdict(case), "threads": threads, "keep_pages": keep_pages}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.runner", json.dumps(request)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"the first call and two more took longer than {limit:g} s"}
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # the compilers that it started
        except ProcessLookupError:
            pass
        process.communicate()
    answer = next((line for line in out.splitlines() if line.startswith(ANSWER)), None)
    if process.returncode or answer is None:
        last = (err.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        return {"failed": f"a process of its own failed: {last[:200]}"}
    row: dict[str, Any] = json.loads(answer.removeprefix(ANSWER))
    return row


def answer_request(request: dict[str, Any]) -> None:
    """What the process of `in_own_process` runs: measures and prints the answer."""
    torch.set_num_threads(request["threads"])
    if request["keep_pages"]:
        keep_pages()
    row = first_call_and_peak(FORMS[request["form"]], Case(**request["case"]))
    print(ANSWER + json.dumps(row), flush=True)


# --- files of results -------------------------------------------------------------------------------------------------

RESULTS = Path(__file__).parent / "results"
PARTS = ("operators", "model", "growth", "pipeline")
MEASURED = {
    "ms": "median time of a step or call",
    "p25": "lower quartile, ms",
    "p75": "upper quartile, ms",
    "rounds": "rounds that the quartiles are over",
    "first_s": "first call with compilation or folding, seconds",
    "peak_MB": "most memory of a step, weights included (CPU: resident, beyond what the imports took)",
    "difference": "from the plain network in float32, relative",
    "images_per_s": "from the median",
    "people_per_s": "pipeline",
    "data_wait": "share of a training epoch that waits for data",
    "network_share": "share of an evaluation inside the network",
    "times_the_best_plain": "how many times faster than the best plain form, median over rounds",
    "MB": "bytes that an operator must move at least",
    "GB_per_s": "those bytes a second",
    "of_copy": "share of the speed of a copy of as many bytes in the same rounds",
    "GFLOP": "of one forward, convolutions",
    "GFLOP_per_s": "of the convolutions as they are defined, a second",
    "of_product": "share of the fastest product of that precision in the same run; Winograd saves products",
    "failed": "why there is no number",
}
# The network's arguments that a table names only where they differ from these; older files leave them out.
USUAL_NETWORK = {"variant": "B*", "features": 256, "depth": 4, "levels": 4, "base_width": 9}


def cpu_name() -> str:
    """Processor and its widest unit, from /proc/cpuinfo."""
    name = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return name
    found = re.search(r"model name\s*:\s*(.+)", text)
    flags = set(text.split())
    unit = next((f for f in ("amx_tile", "avx512_bf16", "avx512f", "avx2") if f in flags), "no avx2")
    if (isa := limited_isa()) is not None:
        unit = f"limited to {isa}"
    return f"{found.group(1) if found else name} ({unit})"


def machine(device: str, threads: int | None = None) -> str:
    """Processor or GPU, threads and versions in one line."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {versions}"
    return f"{cpu_name()}, {threads or torch.get_num_threads()} threads, {versions}"


def machine_name(device: str, threads: int | None = None) -> str:
    """The machine as a file name."""
    cpu = f"{cpu_name()} {threads or torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else re.sub(r"\((R|TM)\)", "", cpu)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def commit() -> str:
    """The commit that is measured, with + where files differ from it."""
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, cwd=RESULTS.parent, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return text.strip()


def command() -> str:
    """What was typed, without the folders of this machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec is not None else Path(sys.argv[0]).stem
    typed = [Path(part).name if part.startswith(("/", "~")) else part for part in sys.argv[1:]]
    return f"python -m {module} {shlex.join(typed)}".strip()


def row_key(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What identifies a row: everything that was not measured, as text."""
    return tuple(sorted((key, json.dumps(value)) for key, value in row.items() if key not in MEASURED))


def case_key(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What identifies a row's case: the same for all its forms."""
    return row_key({key: value for key, value in row.items() if key != "form"})


def path_of(name: str) -> Path:
    """The results file of a name, or the name itself where it is a path to a .json."""
    return Path(name) if name.endswith(".json") else RESULTS / f"{name}.json"


def write_results(
    part: str,
    rows: list[dict[str, Any]],
    device: str,
    *,
    name: str | None = None,
    threads: int | None = None,
    **more: Any,
) -> Path:
    """Puts a part's rows into the machine's file, or into that of ``name``; returns its path.

    Args:
        part: one of `PARTS`.
        rows: replace those of the part in the file.
        device: what was measured.
        name: see `path_of`; default: the machine's name.
        threads: of the CPU; default: torch's.
        more: what else held for the part.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(map(repr, PARTS))}, got {part!r}")
    path = path_of(name or machine_name(device, threads))
    content: dict[str, Any] = {"machine": machine(device, threads), "parts": {}, "rows": []}
    if path.exists():
        before = read_results(path)
        if before["machine"] == content["machine"]:
            content = before
        else:
            print(f"note: {path} is from another machine or other versions and starts over", file=sys.stderr)
    content["parts"][part] = {"command": command(), "commit": commit(), "date": time.strftime("%Y-%m-%d"), **more}
    kept = [row for row in content["rows"] if row["part"] != part]
    content["rows"] = kept + [{"part": part, **row} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
    return path


def read_results(path: Path) -> dict[str, Any]:
    """Reads a file of results into today's schema.

    Raises:
        UserError: it cannot be read, or is no file of results.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # JSON and Unicode
        raise UserError(f"{path} is no file of results: it is not JSON ({error})") from error
    if not isinstance(content, dict) or not {"machine", "rows"} <= set(content):
        raise UserError(f"{path} is no file of results: machine and rows are not both there")
    rows = content["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is no file of results: rows is not a list of objects")
    if "parts" not in content:
        header = {key: content.pop(key) for key in list(content) if key not in ("machine", "rows")}
        content["parts"] = {"model": header}
    if not isinstance(content["parts"], dict):
        raise UserError(f"{path} is no file of results: parts is not an object")
    for number, row in enumerate(rows):
        _complete_row(row, f"{path}, row {number}")
    return content


def _complete_row(row: dict[str, Any], place: str) -> None:
    """Checks a row and fills in what older files leave out."""
    row.setdefault("part", "model")
    if row["part"] not in PARTS or not isinstance(row.get("form"), str):
        raise UserError(f"{place}: expected a form and a part of {', '.join(PARTS)}, got part {row['part']!r} and "
                        f"form {row.get('form')!r}")  # fmt: skip
    for key in set(row) & set(MEASURED) - {"failed"}:
        if isinstance(row[key], bool) or not isinstance(row[key], int | float) or not row[key] >= 0:
            raise UserError(f"{place}: {key} must be a number of at least 0, got {row[key]!r}")
    if row["part"] in ("model", "growth"):
        for key, value in USUAL_NETWORK.items():
            row.setdefault(key, value)


if __name__ == "__main__":
    answer_request(json.loads(sys.argv[1]))
