"""Tables, plots and comparisons of files of results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench import compare, growth, operators, report, runner
from bench.cases import Case
from pyranet_fast import cli


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
    text = report.tables_of(runner.read_results(written(tmp_path / "a.json", 150.0)))
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
    assert (
        "m: inference, 2 stacks, fp32, batch 4 | 150 ms |" in readme.read_text() and "**ours fp32**" in page.read_text()
    )
    assert report.main(files) == 0 and "**ours fp32**" in capsys.readouterr().out


def test_the_readme_has_each_rivals_fastest_form_over_ours(tmp_path):
    content = runner.read_results(written(tmp_path / "a.json", 100.0))
    case = {key: value for key, value in content["rows"][0].items() if key not in runner.MEASURED}
    forms = {"openvino fp32": 150.0, "compiled contiguous fp32": 130.0, "compiled channels_last fp32": 120.0,
             "openvino bf16": 50.0, "ours unfolded fp32": 110.0}  # fmt: skip
    content["rows"] = [row for row in content["rows"] if row["form"] != "eager"]
    content["rows"] += [{**case, "form": form, "ms": ms} for form, ms in forms.items()]
    content["rows"] += [{**case, "form": "ours fp32", "batch": 1, "ms": 40.0}]
    lines = report.speed_table([content])
    assert lines[0] == "| 256×256 pixels | ours | × eager PyTorch | × torch.compile | × ONNX Runtime | × OpenVINO |"
    what = "| m: inference, 2 stacks, fp32, batch 1 / 4 | 40 ms / 100 ms |"
    assert lines[2:] == [f"{what}  | – / 1.20 |  | – / 1.50 |"]


def test_a_case_is_in_the_readme_once_with_the_most_forms(tmp_path):
    few, many = written(tmp_path / "a.json", 150.0), written(tmp_path / "b.json", 120.0)
    content = json.loads(few.read_text())
    content["rows"] = [*content["rows"][1:], {**content["rows"][0], "batch": 1}]
    few.write_text(json.dumps(content))
    files = [runner.read_results(path) for path in (few, many, many)]
    found = report.each_case_once(files)
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


def test_growth_pictures_and_tables(tmp_path):
    base = Case("inference", 1, 2, 64, features=36, depth=2)
    cases = growth.points(base, {"batch": (1, 2), "side": (64, 128)})
    assert [(c.batch, c.side) for c in cases] == [(2, 64), (1, 64), (2, 128)]
    path = tmp_path / "all.json"
    at = {axis: getattr(base, axis) for axis in growth.AXES}
    rows = [
        {**dataclasses.asdict(c), "form": "ours fp32", "ms": c.batch * c.side**2 / 1e3, "images_per_s": 9.0,
         "GFLOP": c.batch * c.side**2 / 1e6, "peak_MB": 1.0, "base": at}
        for c in cases
    ]  # fmt: skip
    runner.write_results("growth", rows, "cpu", name=str(path))
    case = {"operator": "o", "shape": [1], "dtype": "fp32", "layout": "contiguous", "direction": "forward"}
    times = {"ours": [1e-3] * 2, "eager": [3e-3] * 2, operators.COPY: [5e-4] * 2}
    runner.write_results(
        "operators", operators.rows_of(case, times, dict.fromkeys(times, 0.1), 10**6, ["ours"]), "cpu", name=str(path)
    )
    content = runner.read_results(path)
    text = report.tables_of(content)
    assert "| inference, ours fp32, by batch | 1: 4 ms, 1 MB; 2: 8 ms, 1 MB | 1000.00–1000.00 |" in text
    assert "| o, 1, fp32, contiguous, forward | 1.000 (1.000–1.000) | 3.000 (eager) | 3.00× | 1.0 GB/s | 50% |" in text
    short = report.readme_tables([content])
    assert "| times the best native form | fp32, forward |" in short and "| `o` | 3.0–3.0 |" in short
    names = {p.name.split("-")[-1] for p in report.draw_plots({"all": content}, tmp_path)}
    assert names == {"throughput.png", "roofline.png", "batch.png", "side.png"}
