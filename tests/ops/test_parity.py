"""What `python -m pyranet_fast.env --check` compares, and what it finds where a kernel is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyranet_fast import env, ops
from pyranet_fast.ops import dispatch, parity
from tests.ops.testing import native_only

CPU = torch.device("cpu")


class Recorder(TorchDispatchMode):
    """The names of our operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "pyranet_fast":
            self.names.add(name)
        return func(*args, **(kwargs or {}))


@native_only
def test_every_registered_operator_is_checked_on_the_devices_it_has_kernels_for() -> None:
    names = {n for n in torch._C._dispatch_get_all_op_names() if n.startswith("pyranet_fast::")}
    registered = {n.removeprefix("pyranet_fast::").partition(".")[0] for n in names}
    assert {name for check in parity.CHECKS for name in check.runs} == registered
    with Recorder() as recorder:
        rows = list(parity.run_checks(CPU))
    assert recorder.names == {name for name in registered if dispatch.has_kernel(f"pyranet_fast::{name}", "CPU")}
    assert {row.verdict for row in rows} == {"ok"}, [row for row in rows if row.bad]


def spoilt(monkeypatch: pytest.MonkeyPatch, spoil: Any) -> list[parity.Row]:
    """What is found where upsample_sum's kernels give something else."""
    real = parity.upsample_sum

    def wrong(*arguments: Any, **options: Any) -> Tensor:
        y = real(*arguments, **options)
        return y if dispatch.chosen() == "reference" else spoil(y)

    monkeypatch.setattr(parity, "upsample_sum", wrong)
    monkeypatch.setattr(parity, "CHECKS", [c for c in parity.CHECKS if c.operator in ("upsample_sum", "heatmap_loss")])
    return list(parity.run_checks(CPU))


def raises(y: Tensor) -> Tensor:
    raise RuntimeError("an illegal memory access was encountered\nand a trace")


@native_only
@pytest.mark.parametrize(
    ("spoil", "verdict", "note"),
    [
        (lambda y: y + 1e-3 * (y == y.max()), "wrong", "above"),
        (lambda y: torch.where(y == y.max(), torch.nan, y), "wrong", "above"),
        (lambda y: y * 1.0 + 0 * y.detach() + 0.01 * (y - y.detach()), "wrong", "above"),
        (lambda y: y[:, :, 1:], "wrong", "above"),
        (raises, "failed", "RuntimeError: an illegal memory access was encountered"),
    ],
    ids=("a value", "NaN", "the gradient", "the shape", "an error"),
)
def test_what_is_wrong_is_found(spoil: Any, verdict: str, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = spoilt(monkeypatch, spoil)
    of = {row.dtype: row for row in rows if row.operator == "upsample_sum"}
    assert of["float32"].verdict == verdict and of["float32"].note.startswith(note) and of["float32"].bad
    assert all(row.verdict == "ok" for row in rows if row.operator == "heatmap_loss")


@native_only
def test_a_defect_is_exit_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt(monkeypatch, lambda y: y + 1)
    assert env.main(["--check", "--device", "cpu"]) == 1
    text = capsys.readouterr().out
    assert "  upsample_sum                 native   float32   " in text and "wrong: above 2.0e-05" in text
    assert text.endswith("4 ok, 4 wrong\n")
    assert env.main(["--check", "--device", "cpu", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["check"]
    assert found["device"] == "cpu" and {row["verdict"] for row in found["rows"]} == {"ok", "wrong"}


def test_without_kernels_there_is_nothing_to_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dispatch, "native", dispatch.Availability("not built"))
    assert env.main(["--check", "--device", "cpu"]) == 0
    assert "the reference runs every operator" in capsys.readouterr().out


def test_triton_is_not_begun_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has Triton's kernels is not here: the plan is one."""
    check = next(c for c in parity.CHECKS if c.operator == "heatmap_loss")
    monkeypatch.setattr(parity, "_planned", lambda device: iter([(check, "triton", torch.float32)] * 2))
    rows = list(parity.run_checks(CPU, seconds=-1))
    assert [(row.verdict, row.error, row.bad) for row in rows] == [("left out", None, False)] * 2


@native_only
def test_by_the_command_that_a_user_types() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pyranet_fast.env", "--check", "--device", "cpu"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    head, _, table = run.stdout.partition("check of every kernel beside the reference, on cpu\n")
    assert "versions" in head and "operators" in head
    lines = [line.split() for line in table.splitlines()[1:-1]]
    assert all(line[-1] == "ok" for line in lines)
    assert {line[0] for line in lines if line[1] == "native"} >= {*env.OPERATORS, "add_affine_relu"}
    assert table.splitlines()[-1].split() == [str(len(lines)), "ok"]
    assert ops.available_backends()[-1] == "native"
