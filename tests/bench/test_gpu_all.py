"""The recipe of `make gpu`: in small with the CPU for a GPU, and what becomes of steps that fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_all, model, runner
from bench.cases import FORMS, Case
from bench.gpu_all import Step
from pyranet_fast import ops
from pyranet_fast.ops import dispatch

ROOT = Path(__file__).parents[2]


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_a_step_that_fails_stops_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    steps = [
        Step("build", python("raise SystemExit(3)"), 60),
        Step("sanitizer", python("print('never')"), 60, needs="build"),
        Step("tests", python("import time; time.sleep(60)"), 0.2),
        Step("bench", python("import os; print(os.environ['ANSWER'] + '2')"), 60, environment={"ANSWER": "4"}),
        Step("absent", [], 60, "there is no compute-sanitizer"),
        Step("missing", ["/nowhere/program"], 60),
    ]
    outcomes = gpu_all.run_all(steps, time.perf_counter() + 60)
    assert [o.status for o in outcomes] == [3, 1, 124, 0, None, 127]
    assert [o.bad for o in outcomes] == [True, True, True, False, False, True]
    printed = capfd.readouterr().out
    assert "42" in printed and "never" not in printed
    lines = gpu_all.table(outcomes).splitlines()
    assert "FAILED (3)" in lines[0] and "not run: build failed" in lines[1] and "ended after 0 s" in lines[2]
    late = gpu_all.run_all([Step("bench", python(""), 60)], time.perf_counter() - 1)
    assert late[0].bad and late[0].note == "not run: the time was over"


def test_kernels_that_do_not_run_are_built_for_this_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(dispatch, "native_on", lambda index: dispatch.Availability("no kernel image"))
    step = gpu_all._build(torch.device("cuda", 0), 16)
    assert step.command[1:] == ["setup.py", "-q", "build_ext", "--inplace"]
    assert step.environment["PYRANET_FAST_CUDA"] == "1" and step.environment["TORCH_CUDA_ARCH_LIST"] == "9.0"
    monkeypatch.setattr(dispatch, "native_on", lambda index: dispatch.Availability())
    assert not gpu_all._build(torch.device("cuda", 0), 16).command


def test_the_parts_fit_into_the_time() -> None:
    """On a GPU whose kernels are there; what is over of a step goes to the benchmark."""
    steps = {s.name: s for s in gpu_all.recipe(torch.device("cpu"), 16, 10, None)}
    assert list(steps) == ["build", "check", "tests", "memcheck", "racecheck", "bench", "model"]
    assert gpu_all._bench_minutes(10) == 4


def test_predictions_are_compared_with_the_file_that_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_all, "_build", lambda device, jobs: Step("build", [], 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    *_, bench, compare = gpu_all.recipe(torch.device("cuda"), 16, 10, None)
    assert compare.needs == bench.name and compare.command[1:3] == ["-m", "bench.gpu_model"]
    assert compare.command[-2:] == ["--results", str(runner.RESULTS / "nvidia-h200.json")]
    *_, compare = gpu_all.recipe(torch.device("cuda"), 16, 10, "here.json")
    assert compare.command[-1] == "here.json"


@pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")
def test_the_whole_recipe_with_the_cpu_for_a_gpu(tmp_path: Path) -> None:
    """As `make gpu` runs it, with a stand-in for compute-sanitizer that runs what it is given."""
    sanitizer = tmp_path / "compute-sanitizer"
    sanitizer.write_text('#!/bin/sh\necho "sanitizer: $4"; shift 4; exec "$@"\n')
    sanitizer.chmod(0o755)
    results = tmp_path / "gpu.json"
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["make", "--no-print-directory", "gpu", f"GPU_PYTHON={sys.executable}"]
    command += [f"ARGS=--device cpu --jobs 1 --minutes 8 --name {results}"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    table = dict(line.split()[:2] for line in run.stdout.rpartition("s:\n")[2].splitlines())
    assert table == {name: "ok" for name in ("check", "tests", "memcheck", "racecheck", "bench")} | {
        "build": "-",
        "model": "-",
    }
    assert "sanitizer: memcheck" in run.stdout and "sanitizer: racecheck" in run.stdout
    assert "check of every kernel beside the reference, on cpu" in run.stdout
    rows = runner.read_results(results)["rows"]
    assert any(row["form"].startswith("ours") and "ms" in row for row in rows)


def test_our_own_forms_are_measured_when_the_time_is_over() -> None:
    """Compiled rivals may take all of it."""
    case = Case("inference", 1, 1, 32, "cpu", features=8, depth=1, base_width=4)
    names = ["ours fp32", "eager channels_last fp32", "compiled channels_last fp32"]
    rows = model.measure(case, [FORMS[n] for n in names], model.RunOptions(3), until=time.perf_counter() - 1)
    assert [("ms" in row, row.get("failed", "")[:8]) for row in rows] == [
        (True, ""),
        (False, "left out"),
        (False, "left out"),
    ]
