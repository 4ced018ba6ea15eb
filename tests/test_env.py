"""`python -m pyranet_fast.env` tells the truth about what is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyranet_fast as pf
from pyranet_fast import env, ops
from pyranet_fast.ops import dispatch

native = pytest.mark.skipif("native" not in ops.available_backends(), reason="the native library is not built")


def test_the_command_names_every_section_and_operator(capsys: pytest.CaptureFixture[str]) -> None:
    assert env.main([]) == 0
    text = capsys.readouterr().out
    for expected in (
        pf.__version__,
        str(torch.__version__),
        "nvcc",
        "threads",
        "upsample_sum",
        "heatmap_loss",
    ):
        assert expected in text


def test_json_holds_the_same_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert env.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"versions", "tools", "native", "machine", "switches", "operators"}
    assert {
        "fractional_max_pool_pyramid",
        "upsample_sum",
        "heatmap_argmax",
        "heatmap_loss",
        "gaussian_heatmaps",
    } <= set(found["operators"])


@native
def test_every_operator_has_a_cpu_kernel() -> None:
    for name, devices in env.operators(["cpu"]).items():
        assert devices["cpu"].startswith("native ("), f"{name}: {devices['cpu']}"


def test_a_device_without_kernels_is_said_to_use_the_reference() -> None:
    assert env.operators(["xpu"])["upsample_sum"]["xpu"].startswith("reference (")


def test_a_chosen_backend_is_named_as_the_reason() -> None:
    with ops.backend("reference"):
        assert "chosen by" in env.operators(["cpu"])["upsample_sum"]["cpu"]


def test_a_library_that_does_not_load_is_reported_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "native", dispatch.Availability("undefined symbol: example"))
    assert env.native()["_C"] == "not loaded: undefined symbol: example"
    assert "undefined symbol: example" in env.operators(["cpu"])["upsample_sum"]["cpu"]


def test_a_native_backend_without_a_registered_kernel_is_not_called_fine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "explain", lambda device: ("native", "loaded"))
    monkeypatch.setattr(env, "_registered", lambda operator, device: False)
    assert "no kernel is registered" in env.operators(["cpu"])["upsample_sum"]["cpu"]


@native
@pytest.mark.skipif(env.cpu_isa() in (None, "baseline"), reason="this CPU has nothing above the baseline to lower")
def test_the_instruction_set_is_the_librarys_own_answer() -> None:
    paths = os.pathsep.join([str(Path(pf.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", "from pyranet_fast import env; print(env.cpu_isa())"],
        env={**os.environ, "PYTHONPATH": paths, "PYRANET_FAST_CPU_ISA": "baseline"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.strip() == "baseline", run.stderr


@pytest.mark.parametrize("text", ["", "not json", "[1, 2]"])
def test_a_damaged_build_record_is_no_record(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_build.json").write_text(text)
    monkeypatch.setattr(env, "__file__", str(tmp_path / "env.py"))
    assert env.build_record() == {}


def test_compilers_that_are_absent_or_broken_are_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "nvcc"
    broken.write_bytes(b"\x7fnot a program")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "missing-compiler -O2")
    assert env.tools()["C++ compiler"] == "not found (missing-compiler)"
    assert "does not run" in env.tools()["nvcc"]
