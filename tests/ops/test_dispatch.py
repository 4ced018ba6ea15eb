"""Backends on GPUs where kernels that are loaded do not run: what is chosen instead, and what is said of it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from pyranet_fast import env, ops
from pyranet_fast.ops import dispatch
from tests.ops.testing import triton_marks

TOO_OLD = "the driver serves CUDA 12.8 at most, and the kernels were built with CUDA 13.0"


class Gpus:
    """Two GPUs that are not there; what their probes find is to be set, and how often they were asked is counted."""

    def __init__(self) -> None:
        self.native: dict[int, str | None] = {}
        self.triton: dict[int, str | None] = {}
        self.asked: list[tuple[str, int]] = []

    def launch(self, backend: str) -> Callable[[int], str | None]:
        def launched(index: int) -> str | None:
            self.asked.append((backend, index))
            found: dict[int, str | None] = getattr(self, backend)
            return found.get(index)

        return launched


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    made = Gpus()
    here = dispatch.Availability()
    for name, value in (("native", here), ("native_cuda", here), ("_triton", here), ("_probed", {})):
        monkeypatch.setattr(dispatch, name, value)
    for backend in ("native", "triton"):
        monkeypatch.setattr(dispatch, f"_launch_{backend}", made.launch(backend))
    no_capture = ("is_current_stream_capturing", False)
    for name, answer in (("is_available", True), ("device_count", 2), ("current_device", 0), no_capture):
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    dispatch._warn_of_a_gpu.cache_clear()
    return made


def on(device: str) -> Any:
    """As much of a tensor as `dispatch.choose` looks at."""
    return types.SimpleNamespace(device=torch.device(device))


def test_kernels_that_run_are_probed_once_a_device(gpus: Gpus) -> None:
    for _ in range(3):
        assert dispatch.choose(on("cuda:0")) == dispatch.choose(on("cuda:1")) == "native"
    assert gpus.asked == [("native", 0), ("native", 1)], "no Triton is launched where native kernels run"


def test_triton_and_then_the_reference_take_their_place(gpus: Gpus) -> None:
    gpus.native = {0: TOO_OLD, 1: TOO_OLD}
    gpus.triton = {1: "Triton: PTXASError"}
    with pytest.warns(UserWarning, match="do not run here .*CUDA 12.8.*Triton's run instead"):
        assert dispatch.choose(on("cuda:0")) == "triton"
    with pytest.warns(UserWarning, match=r"nor do Triton's \(Triton: PTXASError"):
        assert dispatch.choose(on("cuda:1")) == "reference"
    assert dispatch.operators(on("cuda:1")) is None
    assert dispatch.native_on(0).reason == f"{TOO_OLD}; cuda:0 is Tesla T4, compute capability 7.5"


def test_one_device_of_two_falls_back(gpus: Gpus) -> None:
    gpus.native = {1: "no kernel image is available for execution on the device (launch)"}
    assert dispatch.choose(on("cuda:0")) == "native"
    with pytest.warns(UserWarning, match="no kernel image"):
        assert dispatch.choose(on("cuda:1")) == "triton"
    with ops.backend("native"):
        assert dispatch.choose(on("cuda:0")) == "native"
        with pytest.raises(RuntimeError, match="'native' does not run on device cuda:1: no kernel image"):
            dispatch.choose(on("cuda:1"))


def test_the_environment_s_report_has_the_reason(gpus: Gpus) -> None:
    gpus.native = {0: TOO_OLD}
    assert env.operators(["cuda"])["upsample_sum"]["cuda"].startswith(f"triton (no native CUDA kernels: {TOO_OLD}")
    lines = env.native()
    assert lines["kernels on cuda:0"].startswith(f"native: {TOO_OLD}; cuda:0 is Tesla T4")
    assert lines["kernels on cuda:0"].endswith("Triton: they run")
    assert lines["kernels on cuda:1"] == "native: they run; Triton: they run"
    gpus.triton, dispatch._probed = {0: "Triton: no C compiler"}, {}
    explained = env.operators(["cuda"])["upsample_sum"]["cuda"]
    assert explained.startswith("reference (") and TOO_OLD in explained and "Triton: no C compiler" in explained


def test_a_capture_does_not_answer_for_what_follows(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's probe reads a value, which a graph that records cannot."""
    gpus.triton[0] = "Triton: no C compiler"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert dispatch.triton_on(0).here and not gpus.asked
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert not dispatch.triton_on(0).here and gpus.asked == [("triton", 0)]


def test_a_compiled_function_asks_the_probe_and_keeps_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the GPUs of the fixture, which the compiler would look at."""
    asked = []

    def probe(backend: str, *_: Any) -> dispatch.Availability:
        asked.append(backend)
        return dispatch.Availability(TOO_OLD if backend == "native" else None)

    monkeypatch.setattr(dispatch, "_probe", probe)

    def function(x: torch.Tensor) -> torch.Tensor:
        return x + {"native": 1, "triton": 2}[dispatch._fastest_on_gpu(0)]  # type: ignore[index]

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1)).item() == 2 and asked == ["native", "triton"]
    assert compiled(torch.zeros(1)).item() == 2 and len(asked) == 2


def test_without_a_gpu_nothing_is_launched(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have devices that are not there: they have shapes alone, which every backend knows."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dispatch.choose(on("cuda:0")) == "native" and not gpus.asked


class TestTheLaunchOfTriton:
    pytestmark = triton_marks

    def test_it_runs_whatever_surrounds_it(self) -> None:
        assert dispatch.triton().here
        cpu = torch.device("cpu")
        answers = [dispatch._tiny_triton_launch(cpu)]
        with FakeTensorMode():
            answers.append(dispatch._tiny_triton_launch(cpu))
        torch.func.vmap(lambda x: answers.append(dispatch._tiny_triton_launch(cpu)) or x)(torch.zeros(2))  # type: ignore[func-returns-value]
        assert answers == [None] * 3

    def test_a_failure_and_wrong_values_are_reasons(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*arguments: Any) -> Any:
            raise RuntimeError("ptxas fatal: Value 'sm_61' is not defined\nand more")

        for made, said in (
            (fails, "Triton: RuntimeError: ptxas fatal: Value 'sm_61' is not defined"),
            (lambda *a: torch.zeros(1), "Triton: a kernel ran and gave 0.0 in place of 1"),
        ):
            monkeypatch.setattr(torch.ops, "pyranet_fast_triton", types.SimpleNamespace(gaussian_heatmaps=made))
            assert dispatch._tiny_triton_launch(torch.device("cpu")) == said


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: see tests/gpu")
def test_the_compiled_probe_finds_no_driver_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, library = Path(__file__).parents[2] / "csrc" / "cuda" / "probe.cu", tmp_path / "probe.so"
    flags = ["-std=c++20", "-gencode=arch=compute_75,code=sm_75", "-Xcompiler=-fPIC,-fvisibility=hidden", "-shared"]
    subprocess.run(["nvcc", *flags, "-cudart", "static", str(source), "-o", str(library)], check=True)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setitem(sys.modules, "pyranet_fast._cuda", types.SimpleNamespace(__file__=str(library)))
    assert dispatch._launch_native(0) == "no NVIDIA driver was found"
    monkeypatch.setitem(sys.modules, "pyranet_fast._cuda", types.SimpleNamespace(__file__=sys.executable))
    assert "of another version" in str(dispatch._launch_native(0))
