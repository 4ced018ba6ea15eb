"""The run of a GPU, small enough for a CPU."""

from __future__ import annotations

import pytest

from bench import gpu, runner
from pyranet_fast import ops


@pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")
def test_the_gpu_run_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "backends", lambda device: ["native"])  # Triton's interpreter takes minutes
    path = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--device", "cpu", "--no-compile", "--threads", "1", "--name", str(path)]) == 0
    rows = runner.read_results(path)["rows"]
    assert {row["part"] for row in rows} == {"model", "operators"}
    assert {row["operator"] for row in rows if row["part"] == "operators"} == set(gpu.ON_GPU)
    assert any(row["form"].startswith("ours") and row["ms"] > 0 for row in rows if "ms" in row)
