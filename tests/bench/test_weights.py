"""The command that measures a candidate for the shipped weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bench import weights
from pyranet_fast import cli
from pyranet_fast.checkpoint import Checkpoint, save_checkpoint
from pyranet_fast.data.synthetic import SyntheticSource
from pyranet_fast.inference.calibration import Calibration
from pyranet_fast.models import PyraNet


def test_what_is_expected_by_a_calibration_that_has_not_seen_it():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, 20_000)
    pictures = rng.integers(0, 500, len(scores))
    honest = weights.Outcome(scores, rng.uniform(0, 1, len(scores)) < scores, pictures)
    expected, right = weights.expected_and_right(honest, [])
    assert len(expected) == weights.BINS and np.abs(expected - right).max() < 0.05
    np.testing.assert_allclose(expected, np.linspace(0.05, 0.95, 10), atol=0.05)
    expected, right = weights.expected_and_right(honest, [weights.thinned(honest)], thin=True)
    assert np.abs(expected - right).max() < 0.05
    # What holds of half of the pictures alone is found out on the other half.
    apart = honest._replace(right=pictures % 2 == 0)
    expected, right = weights.expected_and_right(apart, [])
    assert np.abs(expected - right).max() > 0.9


def test_the_command(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    model = PyraNet(1, 16, features=16, depth=1, base_width=4)
    path, card = tmp_path / "tiny.pt", tmp_path / "card.md"
    save_checkpoint(path, Checkpoint(model.config, model.state_dict(), "mpii", 32))
    people = {"lsp": SyntheticSource(6, 1), "mpii": SyntheticSource(8, 2)}
    people["lsp"].name = "lsp 1-6"
    monkeypatch.setattr(weights, "open_dataset", lambda name, *rest: people[name])
    card.write_text(f"A card.\n{weights.BEGIN}\noutdated\n{weights.END}\nThe end.\n")
    more = ["--root", "data", "--threads", "1", "--card", str(card)]
    assert weights.main(["--checkpoint", str(path), *more, "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert text in capsys.readouterr().out and "| LSP 1-6, PCK@0.2, one scale |" in text and "six scales" in text
    page = card.read_text()
    assert text.strip() in page and "outdated" not in page
    assert page.startswith("A card.") and page.endswith("The end.\n")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["presence"]["people"] == 8 and results["parameters"] == sum(p.numel() for p in model.parameters())
    assert len(results["scores"]) == 3 and results["calibration"].keys() == {"everyday", "leeds"}
    for part in results["calibration"].values():
        worst = max(abs(e - r) for e, r in zip(part["expected"], part["right"], strict=True))
        assert part["worst"] == pytest.approx(worst, abs=2e-4)  # rounded
    Calibration.from_dict(json.loads((tmp_path / "out" / "calibration.json").read_text()))
    card.write_text("no marks")
    assert cli.run(weights.main, ["--checkpoint", str(path), *more]) == cli.BAD_INPUT
    assert "card.md needs <!-- weights: begin -->" in capsys.readouterr().err
