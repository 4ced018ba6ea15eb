"""The plain network that speeds are compared with, what refuses a number, tables and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import compare, model, report
from bench.baseline import Baseline, loss
from pyranet_fast import cli, ops
from pyranet_fast.models import PyraNet

TINY = {"features": 36, "depth": 2}


@pytest.mark.parametrize("variant", ["B*", "plain"])
def test_the_baseline_is_the_network(variant):
    torch.manual_seed(0)
    ours = PyraNet(2, 5, variant=variant, **TINY)
    plain = Baseline(2, 5, variant=variant, **TINY)
    plain.load_state_dict(ours.state_dict())
    image, joints = torch.randn(2, 3, 64, 64), torch.rand(2, 5, 2) * 16
    grads = []
    with ops.backend("reference"):
        for network in (ours.double().eval(), plain.double().eval()):
            maps = network(image.double())
            loss(maps, joints).backward()
            grads.append([p.grad for p in network.parameters()])
            grads[-1].append(maps[-1])
    assert len(grads[0]) == len(grads[1])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    weight = torch.ones(2, 5)
    ours_loss = sum(ops.heatmap_loss(m.float(), joints, weight) for m in maps)
    torch.testing.assert_close(ours_loss, loss(maps, joints).float(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="variant is 'A'"):
        Baseline(1, variant="A")


def rows_of(**options: Any) -> list[dict[str, Any]]:
    forms = ["eager channels_last fp32", "ours fp32"]
    return model.measure("inference", 1, 2, forms, rounds=2, side=64, device="cpu", size=TINY, **options)


def test_a_form_that_disagrees_gets_no_number(monkeypatch, capsys):
    good = rows_of()
    assert all(row["ms"] > 0 and row["difference"] < 1e-5 for row in good)
    assert good[1]["times_the_best_plain"] > 0
    real = model.optimize_for_inference
    monkeypatch.setattr(model, "optimize_for_inference", lambda m, p: (lambda f: Wrong(f))(real(m, p)))
    plain, wrong = rows_of()
    assert "ms" in plain and "ms" not in wrong and "differs from the plain network by" in wrong["failed"]
    assert "not timed" in capsys.readouterr().out


class Wrong(torch.nn.Module):
    def __init__(self, fast: torch.nn.Module) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [m * 1.01 for m in self.fast(x)]


def written(path: Path, ours: float, **more: Any) -> Path:
    case = {"mode": "inference", "stacks": 2, "batch": 4, "side": 256, "device": "cpu"}
    rows = [
        {**case, "form": "eager", "ms": 300.0, "p25": 290.0, "p75": 310.0, "images_per_s": 13.3, "first_s": 1.0},
        {**case, "form": "ours fp32", "ms": ours, "p25": ours, "p75": ours, "images_per_s": 4e3 / ours, "first_s": 0.5,
         "times_the_best_plain": 300 / ours},
        {**case, "form": "wrong", "failed": "differs"},
    ]  # fmt: skip
    path.write_text(json.dumps({"machine": "m", "commit": "c", "command": "do", "rows": rows, **more}))
    return path


def test_report_and_its_place_in_the_readme(tmp_path):
    text = report.table(report.read(written(tmp_path / "a.json", 150.0)))
    lines = text.split("\n")
    assert lines[0] == "m; commit c; `do`:" and "inference, 2 stacks, 256 px, batch 4" in lines[2]
    assert lines[4].startswith("| **ours fp32** | 150 (150–150) | 26.7 | 2.00× |") and lines[5].startswith("| eager |")
    assert lines[6] == "| wrong | differs | | | |"
    page = report.readme_with(f"a\n{report.BEGIN}\nold\n{report.END}\nb", text)
    assert "old" not in page and page.startswith("a\n") and page.endswith("\nb") and text in page
    assert report.readme_with(page, text) == page


def test_compare_finds_what_is_slower(tmp_path, capsys):
    a, b = written(tmp_path / "a.json", 150.0), written(tmp_path / "b.json", 180.0)
    assert compare.main([str(a), str(a)]) == 0
    assert compare.main([str(a), str(b)]) == 1
    assert "ours fp32: 150 -> 180 ms, x1.200  SLOWER" in capsys.readouterr().out.replace("256, cpu, ", "")
    assert compare.main([str(a), str(b), "--threshold", "0.25"]) == 0
    assert compare.main([str(b), str(a)]) == 0


def test_bad_files_are_named(tmp_path, capsys):
    (tmp_path / "bad.json").write_text("[]")
    assert cli.run(report.main, [str(tmp_path / "bad.json")]) == 2
    assert "bad.json is no file of results: it has no machine" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{")
    assert cli.run(compare.main, [str(tmp_path / "bad.json"), str(tmp_path / "bad.json")]) == 2
    assert cli.run(report.main, [str(tmp_path / "none.json")]) == 2
    with pytest.raises(Exception, match="once each"):
        report.readme_with("no marks", "")
