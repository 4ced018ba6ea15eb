"""Contests of networks: equal sizes, results, going on where one stopped, a training that fails."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from pathlib import Path

import pytest

from pyranet_fast import ablate, cli
from pyranet_fast.ablation import contest
from pyranet_fast.errors import UserError
from tests.data.coco_people import dogs, write


def test_variants_and_levels_are_of_one_size():
    sizes = {}
    for one in (*contest.variants(contest.SMALL), *contest.scales(contest.SMALL)):
        sizes[one.name] = contest._parameters([*contest.SMALL, *one.flags])
    assert set(sizes) == {
        "plain",
        "wide",
        *(f"PRM-{v}" for v in ("A", "B", "B*", "C", "D")),
        *map("C={}".format, range(2, 9)),
    }
    target = sizes["PRM-B*"]
    assert all(abs(size / target - 1) < 0.02 for name, size in sizes.items() if name != "plain")
    assert len({sizes[f"C={c}"] for c in range(2, 9)}) == 1 and sizes["plain"] < target


def test_recipes_change_one_thing_each():
    flags = [*contest.SMALL, "--input-size", "128"]
    base = dataclasses.asdict(contest._settings(flags))
    changed = {}
    for one in contest.recipes(flags):
        settings = dataclasses.asdict(contest._settings([*flags, *one.flags]))
        changed[one.name] = {key for key, value in settings.items() if value != base[key]}
        folder = one.folder(Path(), 0).name
        assert folder.replace("-", "").isalnum()
    assert changed.pop("as given") == set()
    augmentation = {"scale_noise", "rotation_noise", "rotation_probability", "colour_noise"}
    for name, keys in changed.items():
        assert len(keys) == 1 or (keys and keys <= augmentation), name
    assert len(changed) >= 14 and {"lr", "batch_size", "schedule", "ema", "early_size", "pool_windows", "init"} <= set(
        itertools.chain(*changed.values())
    )


def test_a_contest_is_held_once(tmp_path, capsys):
    root = write(tmp_path / "data", dogs())
    write(root, dogs(4), "val.json")
    tiny = ["--dataset", "coco:dogs.json,val.json", "--root", str(root), "--features", "24", "--depth", "1"]
    tiny += ["--input-size", "32", "--batch-size", "4", "--epochs", "1", "--device", "cpu", "--warmup", "0"]
    command = ["variants", "--output", str(tmp_path / "out"), "--only", "plain,PRM-B*", "--seeds", "2"]
    command += ["--jobs", "2", "--", *tiny]
    assert cli.run(ablate.main, command) == 0
    said = capsys.readouterr().out
    assert "| network | PCK-box@0.05 |" in said and "done before" not in said
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [r["name"] for r in results] == ["plain", "PRM-B*"]
    for result in results:
        assert len(result["scores"]) == 2 and result["images_per_second"] > 0 and result["peak_megabytes"] > 50
        assert result["curves"][0][-1][1] == result["scores"][0]
    assert results[0]["params"] < results[1]["params"]
    for name in ("table.md", "scores.png", "curves.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100

    finished = tmp_path / "out" / "runs" / "plain-seed0" / "last.pt"
    before = finished.stat().st_mtime_ns
    assert cli.run(ablate.main, command) == 0
    assert capsys.readouterr().out.count("done before") == 4 and finished.stat().st_mtime_ns == before

    assert cli.run(ablate.main, [*command[:3], "--only", "plain", "--", *tiny, "--batch-size", "99"]) == cli.BAD_INPUT
    assert "training of plain, seed 0 ended with status 2: error: " in capsys.readouterr().err


def test_unknown_networks_are_named(capsys):
    with pytest.raises(SystemExit):
        ablate.main(["variants", "--only", "PRM-Z"])
    assert "--only has 'PRM-Z'; there are plain, wide, PRM-A" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        ablate.main(["variants", "--jobs", "0"])
    assert "--jobs is 0; a whole number above 0 is accepted" in capsys.readouterr().err


def test_what_has_not_begun_is_left_where_one_fails(tmp_path, monkeypatch):
    begun = []

    def train(title, *rest):
        begun.append(title)
        time.sleep(0.01)
        raise UserError(f"{title} failed")

    monkeypatch.setattr(contest, "_train", train)
    monkeypatch.setattr(contest, "_result", None)
    networks = [contest.Contestant(str(i), ()) for i in range(200)]
    with pytest.raises(UserError, match="0, seed 0 failed"):
        contest.hold(networks, tmp_path, [], 1, jobs=1)
    assert len(begun) < 200


def test_trainings_at_a_time_share_the_cores(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(contest, "_train", lambda title, folder, flags, env: seen.append(env.get("OMP_NUM_THREADS")))
    monkeypatch.setattr(contest, "_result", lambda one, folders: (one.name, len(folders)))
    monkeypatch.setattr(contest.os, "cpu_count", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    networks = [contest.Contestant("a", ()), contest.Contestant("b", ())]
    assert contest.hold(networks, tmp_path, [], 2, jobs=3) == [("a", 2), ("b", 2)]
    assert seen == ["2"] * 4
    contest.hold(networks, tmp_path, [], 1)
    assert seen[4:] == [None] * 2
