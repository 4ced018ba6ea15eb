"""What refuses a number: forms of the network that disagree with the plain one."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bench import baseline, cases, model
from bench.baseline import loss
from bench.cases import FORMS, Case

CASE = Case("inference", 1, 2, 64, features=36, depth=2)


def rows_of(case: Case = CASE) -> list[dict[str, Any]]:
    chosen = [FORMS["eager channels_last fp32"], FORMS["ours fp32"]]
    return model.measure(case, chosen, model.RunOptions(rounds=2))


class Wrong(torch.nn.Module):
    def __init__(self, fast: torch.nn.Module) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [m * 1.01 for m in self.fast(x)]


def test_a_form_that_disagrees_gets_no_number(monkeypatch, capsys):
    good = rows_of()
    assert all(row["ms"] > 0 and row["difference"] < 1e-5 and row["rounds"] == 2 for row in good)
    assert good[1]["times_the_best_plain"] > 0
    real = cases.optimize_for_inference
    monkeypatch.setattr(cases, "optimize_for_inference", lambda m, p, **more: Wrong(real(m, p, **more)))
    plain, wrong = rows_of()
    assert "ms" in plain and "ms" not in wrong and "differs from the plain network by" in wrong["failed"]
    assert "not timed" in capsys.readouterr().out


def test_training_is_compared_in_loss_and_gradients(monkeypatch):
    case = dataclasses.replace(CASE, mode="training")
    good = rows_of(case)
    assert all(row["ms"] > 0 and row["difference"] < 2e-3 for row in good)
    monkeypatch.setattr(baseline, "loss", lambda maps, joints: 1.01 * loss(maps, joints))
    plain, ours = rows_of(case)  # what is compared with is wrong now, so ours is the one that disagrees
    assert "ms" in plain and "differs from the plain network by" in ours["failed"]


def test_the_checkpointed_form_recomputes(monkeypatch):
    case, blocks = dataclasses.replace(CASE, mode="training"), []
    real = cases.checkpoint_activations_
    monkeypatch.setattr(cases, "checkpoint_activations_", lambda m: blocks.append(real(m)))
    names = ["compiled frozen channels_last fp32", "ours checkpointed fp32"]
    (form,) = cases.forms_of(case, names)
    row = model.measure(case, [FORMS["eager channels_last fp32"], form], model.RunOptions(rounds=2))[1]
    assert blocks and blocks[0] > 0 and row["ms"] > 0
