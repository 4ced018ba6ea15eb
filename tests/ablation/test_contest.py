"""Contests of networks: equal sizes, results, going on where one stopped, a training that fails."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import time
from pathlib import Path

import pytest

from pyranet_fast import ablate, cli
from pyranet_fast.ablation import contest
from pyranet_fast.checkpoint import CLASSIFICATION, Checkpoint, save_checkpoint
from pyranet_fast.errors import UserError
from pyranet_fast.models import classifier
from tests.data.coco_people import dogs, write


def test_variants_and_levels_are_of_one_size():
    sizes = {}
    for one in (*contest.variants(contest.SMALL_POSE), *contest.scales(contest.SMALL_POSE)):
        sizes[one.name] = contest.count_parameters([*contest.SMALL_POSE, *one.flags])
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
    flags = [*contest.SMALL_POSE, "--input-size", "128"]
    base = dataclasses.asdict(contest.pose_config(flags))
    changed = {}
    for one in contest.recipes(flags):
        config = dataclasses.asdict(contest.pose_config([*flags, *one.flags]))
        changed[one.name] = {key for key, value in config.items() if value != base[key]}
        folder = one.folder(Path(), 0).name
        assert folder.replace("-", "").isalnum()
    assert changed.pop("as given") == set()
    augmentation = {"scale_noise", "rotation_noise", "rotation_probability", "color_noise"}
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
    said = capsys.readouterr()
    assert "| network | PCK-box@0.05 |" in said.out and "done before" not in said.err
    assert said.err.count("python -m pyranet_fast.train") == 4
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
    assert capsys.readouterr().err.count("done before") == 4 and finished.stat().st_mtime_ns == before

    # Other labels are trained on again, from the start.
    content = json.loads((root / "dogs.json").read_text())
    content["annotations"][0]["keypoints"][0] += 1
    (root / "dogs.json").write_text(json.dumps(content))
    one = [*command[:3], "--only", "plain", "--output", str(tmp_path / "out"), "--seeds", "1", "--", *tiny]
    assert cli.run(ablate.main, one) == 0
    said = capsys.readouterr().err
    assert "plain, seed 0: trained again, since the labels have changed" in said and "--resume none" in said
    assert finished.stat().st_mtime_ns > before
    log = finished.with_name("train.log").read_text()
    assert log.count("people to train on") == 2 and "resumed" not in log

    assert cli.run(ablate.main, [*command[:3], "--only", "plain", "--", *tiny, "--batch-size", "99"]) == cli.BAD_INPUT
    assert "training of plain, seed 0 ended with status 2: error: " in capsys.readouterr().err


def test_unknown_networks_are_named(capsys):
    with pytest.raises(SystemExit):
        ablate.main(["variants", "--only", "PRM-Z"])
    assert "--only has 'PRM-Z'; there are plain, wide, PRM-A" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        ablate.main(["variants", "--jobs", "0"])
    assert "--jobs must be a positive integer, got 0" in capsys.readouterr().err


def networks(count: int) -> list[contest.Contestant]:
    return [contest.Contestant(str(number), ()) for number in range(count)]


def test_what_has_not_begun_is_left_where_one_fails(tmp_path, monkeypatch):
    begun = []

    def fails(command, **rest):
        begun.append(command)
        time.sleep(0.01)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(contest.subprocess, "run", fails)
    with pytest.raises(UserError, match="training of 0, seed 0 ended with status 3: it said nothing"):
        contest.train_all(networks(200), tmp_path, [], 1, jobs=1)
    assert len(begun) < 200


def test_trainings_at_a_time_share_the_cores(tmp_path, monkeypatch):
    seen = []

    def run(command, env, **rest):
        seen.append((command[2], env.get("OMP_NUM_THREADS")))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(contest.subprocess, "run", run)
    monkeypatch.setattr(contest.os, "cpu_count", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    contest.train_all(networks(2), tmp_path / "a", [], 2, jobs=3)
    assert seen == [("pyranet_fast.train", "2")] * 4
    contest.train_all(networks(2), tmp_path / "b", [], 1, "train_classifier")
    assert seen[4:] == [("pyranet_fast.train_classifier", None)] * 2
    contest.train_all(networks(2), tmp_path / "b", [], 1, "train_classifier")  # done before
    assert len(seen) == 6


def test_results_of_classifiers_are_read(tmp_path):
    one = contest.Contestant("wrn-10-1", ())
    network = classifier("wrn-10-1", classes=4)
    for seed, score in enumerate((60.0, 70.0)):
        folder = one.folder(tmp_path, seed)
        checkpoint = Checkpoint(network.config, network.state_dict(), "", 32, kind=CLASSIFICATION)
        save_checkpoint(folder / "last.pt", checkpoint)
        summary = {"metric": "accuracy", "validation": score, "peak_megabytes": 100 + seed}
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "log.csv").write_text(f"epoch,validation,images_per_second\n1,,10\n2,{score},30\n")
    (result,) = contest.read_results([one], tmp_path, 2)
    assert result.params == sum(p.numel() for p in network.parameters()) and result.flops > result.params
    assert result.scores == [60.0, 70.0] and result.mean == 65 and result.curves == [[(2, 60.0)], [(2, 70.0)]]
    assert result.images_per_second == 20 and result.peak_megabytes == 101 and result.metric == "accuracy"
