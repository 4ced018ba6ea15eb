"""Data sets beside one another: who is loaded, and how far the crops of the second are from those of the first."""

from __future__ import annotations

from bench import pipeline
from pyranet_fast.data import Subset, open_dataset


def test_data_sets_beside_one_another(capsys, monkeypatch):
    people = open_dataset("demo", None, "test", count=6)
    asked = []

    def opened(name, root, split):
        asked.append((name, root, split))
        return people if name != "turned" else Subset(people, [5, 4, 3, 2, 1, 0])

    monkeypatch.setattr(pipeline, "open_dataset", opened)
    assert pipeline.loading(["demo", "same", "turned", "--people", "3", "--input-size", "32"]) == 0
    first, same, equal, turned, other = capsys.readouterr().out.splitlines()
    assert asked == [(name, None, "train") for name in ("demo", "same", "turned")]
    assert first.startswith("demo: ") and ", 1.00 of the first; " in first
    assert same.startswith("same: ") and "mean absolute difference 0.00 of 255, PSNR 68.1 dB" in equal
    assert turned.startswith("turned: ") and "mean absolute difference 0.00" not in other
