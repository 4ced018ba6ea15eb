"""The plain network that speeds are compared with, what refuses a number, tables and comparisons."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import baseline, cold, compare, forms, gpu, gpu_operators, growth, model, paired, plots, record, report
from bench.baseline import Baseline, loss
from bench.forms import FORMS, Case
from pyranet_fast import cli, ops
from pyranet_fast.errors import UserError
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


CASE = Case("inference", 1, 2, 64, **TINY)


def rows_of(case: Case = CASE) -> list[dict[str, Any]]:
    chosen = [FORMS["eager channels_last fp32"], FORMS["ours fp32"]]
    return model.measure(case, chosen, model.Settings(rounds=2))


def test_a_form_that_disagrees_gets_no_number(monkeypatch, capsys):
    good = rows_of()
    assert all(row["ms"] > 0 and row["difference"] < 1e-5 and row["rounds"] == 2 for row in good)
    assert good[1]["times_the_best_plain"] > 0
    real = forms.optimize_for_inference
    monkeypatch.setattr(forms, "optimize_for_inference", lambda m, p, **more: Wrong(real(m, p, **more)))
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


def test_frozen_weights_are_asked_for_while_compiling_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda m, **more: lambda x: seen.append(forms.inductor.freezing) or [x])
    prepared = forms.prepare(FORMS["compiled frozen channels_last fp32"], forms.Data(CASE))
    prepared.step(), prepared.step()
    assert seen == [True, False] and not forms.inductor.freezing
    names = ["compiled frozen channels_last fp32", "ours checkpointed fp32", "ours fp32"]
    assert [form.name for form in forms.forms_of(CASE, names)] == [names[0], names[2]]


def test_the_checkpointed_form_recomputes(monkeypatch):
    case, blocks = dataclasses.replace(CASE, mode="training"), []
    real = forms.checkpoint_activations_
    monkeypatch.setattr(forms, "checkpoint_activations_", lambda m: blocks.append(real(m)))
    names = ["compiled frozen channels_last fp32", "ours checkpointed fp32"]
    (form,) = forms.forms_of(case, names)
    row = model.measure(case, [FORMS["eager channels_last fp32"], form], model.Settings(rounds=2))[1]
    assert blocks and blocks[0] > 0 and row["ms"] > 0


def test_a_form_in_a_process_of_its_own():
    row = cold.elsewhere(FORMS["ours fp32"], CASE, threads=1, keep_pages=False, limit=120)
    assert row["first_s"] > 0 and row["peak_MB"] > 0
    row = cold.elsewhere(FORMS["ours fp32"], CASE, threads=1, keep_pages=False, limit=0.1)
    assert row == {"failed": "the first call and two more took longer than 0.1 s"}
    impossible = dataclasses.replace(CASE, side=-1)
    assert "a process of its own failed" in cold.elsewhere(
        FORMS["ours fp32"], impossible, threads=1, keep_pages=False, limit=120
    )["failed"]  # fmt: skip


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
    assert lines[6] == "| wrong | differs |  |  |  |  |"
    page = report.readme_with(f"a\n{report.BEGIN}\nold\n{report.END}\nb", text)
    assert "old" not in page and page.startswith("a\n") and page.endswith("\nb") and text in page
    assert report.readme_with(page, text) == page


def test_pages_are_written_and_checked(tmp_path, capsys):
    files = [str(written(tmp_path / "a.json", 150.0))]
    page, readme = tmp_path / "docs" / "page.md", tmp_path / "README.md"
    readme.write_text(f"{report.BEGIN}\n{report.END}\n")
    places = ["--readme", str(readme), "--page", str(page)]
    assert report.main([*files, "--check", *places]) == 1 and not page.exists()
    assert report.main([*files, "--write", *places]) == 0
    assert report.main([*files, "--check", *places]) == 0
    assert "**ours fp32**" in readme.read_text() and "**ours fp32**" in page.read_text()
    assert report.main(files) == 0 and "**ours fp32**" in capsys.readouterr().out


def test_a_case_is_in_the_readme_once_with_the_most_forms(tmp_path):
    few, many = written(tmp_path / "a.json", 150.0), written(tmp_path / "b.json", 120.0)
    content = json.loads(few.read_text())
    content["rows"] = [*content["rows"][1:], {**content["rows"][0], "batch": 1}]
    few.write_text(json.dumps(content))
    files = [report.read(path) for path in (few, many, many)]
    found = report.once(files)
    assert [len(one["rows"]) for one in found] == [1, 3, 0] and found[0]["rows"][0]["batch"] == 1
    assert [len(one["rows"]) for one in files] == [3, 3, 3]  # as they were


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
    assert "bad.json is no file of results: machine and rows are not both there" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{")
    assert cli.run(compare.main, [str(tmp_path / "bad.json"), str(tmp_path / "bad.json")]) == 2
    assert cli.run(report.main, [str(tmp_path / "none.json")]) == 2
    with pytest.raises(Exception, match="once each"):
        report.readme_with("no marks", "")


def test_every_part_has_its_own_rows(tmp_path, monkeypatch):
    path = tmp_path / "machine.json"
    row = {"form": "ours", "ms": 1.0, "device": "cpu"}
    record.write("model", [{**row, "mode": "inference"}], "cpu", name=str(path))
    record.write("growth", [{**row, "base": {}}, {**row, "base": {}, "form": "other"}], "cpu", name=str(path))
    record.write("growth", [{**row, "base": {}}], "cpu", name=str(path), threads=torch.get_num_threads())
    content = record.read(path)
    assert sorted(r["part"] for r in content["rows"]) == ["growth", "model"]
    assert set(content["parts"]) == {"growth", "model"} and content["parts"]["growth"]["commit"] == record.commit()
    record.write("model", [row], "cpu", name=str(path), threads=77)  # another machine, as it were
    assert [r["part"] for r in record.read(path)["rows"]] == ["model"]
    monkeypatch.setattr("sys.argv", ["bench", "--root", "/home/me/data", "--forms", "ours fp32"])
    assert record.command().endswith("--root data --forms 'ours fp32'")
    with pytest.raises(ValueError, match="part is 'x'"):
        record.write("x", [], "cpu", name=str(path))


@pytest.mark.parametrize(("rows", "message"), [
    ({}, "not a list"), ([1], "not a list"), ([{"part": "x", "form": "y"}], "part is 'x'"),
    ([{"form": "y", "ms": -1}], "ms is -1"), ([{"form": "y", "p25": "3"}], "p25 is '3'"),
])  # fmt: skip
def test_bad_rows_are_named(tmp_path, rows, message):
    (tmp_path / "a.json").write_text(json.dumps({"machine": "m", "rows": rows}))
    with pytest.raises(UserError, match=message):
        record.read(tmp_path / "a.json")


def test_operators_beside_a_copy():
    times = {"ours": [1e-3, 2e-3, 1e-3], "eager a": [3e-3, 3e-3, 3e-3], "eager b": [4e-3, 1e-3, 4e-3]}
    times[paired.COPY] = [5e-4, 5e-4, 5e-4]
    rows = {r["form"]: r for r in paired.rows_of({"operator": "o"}, times, dict.fromkeys(times, 0.1), 10**6, ["ours"])}
    assert rows["ours"]["ms"] == 1.0 and rows["ours"]["GB_per_s"] == 1.0 and rows["ours"]["of_copy"] == 0.5
    assert rows["ours"]["times_the_best_plain"] == 3.0  # of "eager a", whose median is the smaller
    assert rows["copy"]["GB_per_s"] == 2.0 and "of_copy" not in rows["copy"]
    assert paired.moved(torch.zeros(3), [torch.zeros(2, dtype=torch.bfloat16)]) == 16


def test_growth_pictures_and_tables(tmp_path):
    base = Case("inference", 1, 2, 64, **TINY)
    cases = growth.points(base, {"batch": (1, 2), "side": (64, 128)})
    assert [(c.batch, c.side) for c in cases] == [(2, 64), (1, 64), (2, 128)]
    path = tmp_path / "all.json"
    at = {axis: getattr(base, axis) for axis in growth.AXES}
    rows = [
        {**dataclasses.asdict(c), "form": "ours fp32", "ms": c.batch * c.side**2 / 1e3, "images_per_s": 9.0,
         "GFLOP": c.batch * c.side**2 / 1e6, "peak_MB": 1.0, "base": at}
        for c in cases
    ]  # fmt: skip
    record.write("growth", rows, "cpu", name=str(path))
    case = {"operator": "o", "shape": [1], "dtype": "fp32", "layout": "contiguous", "direction": "forward"}
    times = {"ours": [1e-3] * 2, "eager": [3e-3] * 2, paired.COPY: [5e-4] * 2}
    record.write(
        "operators", paired.rows_of(case, times, dict.fromkeys(times, 0.1), 10**6, ["ours"]), "cpu", name=str(path)
    )
    content = record.read(path)
    text = report.table(content)
    assert "| inference, ours fp32, by batch | 1: 4 ms, 1 MB; 2: 8 ms, 1 MB | 1000.00–1000.00 |" in text
    assert "| o, 1, fp32, contiguous, forward | 1.000 (1.000–1.000) | 3.000 (eager) | 3.00× | 1.0 GB/s | 50% |" in text
    short = report.table(content, short=True)
    assert "| times the best native form | fp32, forward |" in short and "| `o` | 3.0–3.0 |" in short
    names = {p.name.split("-")[-1] for p in plots.draw({"all": content}, tmp_path)}
    assert names == {"throughput.png", "roofline.png", "batch.png", "side.png"}


@pytest.mark.skipif("native" not in ops.available_backends(), reason="native library not built")
def test_the_gpu_run_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_operators, "backends", lambda device: ["native"])  # Triton's interpreter takes minutes
    path = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--device", "cpu", "--no-compile", "--threads", "1", "--name", str(path)]) == 0
    rows = record.read(path)["rows"]
    assert {row["part"] for row in rows} == {"model", "operators"}
    assert {row["operator"] for row in rows if row["part"] == "operators"} == set(gpu.CASES)
    assert any(row["form"].startswith("ours") and row["ms"] > 0 for row in rows if "ms" in row)
