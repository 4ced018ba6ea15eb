"""A form in a process of its own: its first call, compilation included, and the most memory that a step takes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import torch

from bench.forms import FORMS, Case, Data, Form, prepare
from bench.timing import figure, seconds, synchronise

MARK = "cold: "


def resident(what: str) -> float:
    """VmRSS or VmHWM of this process, MB; 0 where the system does not say."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1e3 for line in file if line.startswith(what))
    except (OSError, StopIteration):
        return 0.0


def forget_peak() -> bool:
    """Let VmHWM begin at what is resident now."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def here(form: Form, case: Case) -> dict[str, float]:
    """First call and peak memory, in this process, of which nothing else is asked."""
    parameter = torch.zeros(1, device=case.device, requires_grad=True)
    parameter.sum().backward()
    torch.optim.RMSprop([parameter]).step()  # what torch imports late is no form's time or memory
    before, on_gpu = resident("VmRSS"), case.kind == "cuda"
    prepared = prepare(form, Data(case))
    synchronise(case.device)
    start = time.perf_counter()
    prepared.step()
    synchronise(case.device)
    row = {"first_s": figure(time.perf_counter() - start + prepared.made_s, 3)}
    prepared.step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    known = on_gpu or forget_peak()
    seconds(prepared.step, case.device)
    peak = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else resident("VmHWM") - before
    return {**row, "peak_MB": figure(max(peak, 0.0))} if known else row


def elsewhere(form: Form, case: Case, *, threads: int, keep_pages: bool, limit: float) -> dict[str, Any]:
    """`here` in a fresh process, ended after ``limit`` seconds; ``failed`` says why there is no number."""
    request = {"form": form.name, "case": dataclasses.asdict(case), "threads": threads, "keep_pages": keep_pages}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.cold", json.dumps(request)],
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
    answer = next((line for line in out.splitlines() if line.startswith(MARK)), None)
    if process.returncode or answer is None:
        last = (err.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        return {"failed": f"a process of its own failed: {last[:200]}"}
    row: dict[str, Any] = json.loads(answer.removeprefix(MARK))
    return row


def main() -> int:
    """The child's part."""
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    if request["keep_pages"]:
        from pyranet_fast.cli import keep_pages

        keep_pages()
    print(MARK + json.dumps(here(FORMS[request["form"]], Case(**request["case"]))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
