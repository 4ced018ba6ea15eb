"""Each picture's result is kept once, whatever became of the runs that made it."""

from __future__ import annotations

import json

import pytest

from pyranet_fast.errors import UserError
from pyranet_fast.inference.journal import Journal

SETTINGS = {"checkpoint": "a.pt", "box": None}


def opened(folder, *, resume=False, settings=SETTINGS, rank=0):
    journal = Journal(folder, settings, rank)
    if rank == 0:
        journal.prepare(resume=resume)
    journal.open()
    return journal


def left(journal):
    """The lock goes with its process."""
    journal.__exit__()


def entry(name, people=1):
    return {"image": name, "people": [{"person": n} for n in range(people)]}


def kept(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_a_run_and_its_files(tmp_path):
    journal = opened(tmp_path)
    for index, name in enumerate("ab"):
        assert journal.turn(index, name) == ((name, 0), False)
        journal.write(index, (name, 0), entry(name, 2))
    journal.write(2, ("c", 0), {"image": "c", "error": "image c is broken"})
    journal.close()
    assert journal.finish({"checkpoint": "a.pt"}) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.json", "predictions.jsonl"]
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert list(content) == ["checkpoint", "predictions", "errors"]
    assert content["predictions"] == [{"image": name, "person": n} for name in "ab" for n in (0, 1)]
    assert content["errors"] == [{"image": "c", "error": "image c is broken"}]
    assert [line["image"] for line in journal] == ["a", "b", "c"]


def test_a_killed_run_is_resumed(tmp_path):
    journal = opened(tmp_path)
    journal.write(0, ("a", 0), entry("a"))
    journal.write(1, ("b", 0), {"image": "b", "error": "no"})
    with journal.path.open("ab") as file:
        file.write(b'{"index": 2, "key": ["c", 0], "ru')  # killed within a line
    left(journal)
    again = opened(tmp_path, resume=True)
    assert again.done == 1
    assert [again.turn(at, name)[1] for at, name in enumerate("abc")] == [
        True,
        False,
        False,
    ]  # what was broken is tried again
    for index, name in ((1, "b"), (2, "c")):
        again.write(index, (name, 0), entry(name))
    again.close()
    assert again.finish({"checkpoint": "a.pt"}) == (3, 0)
    left(again)
    assert [line["image"] for line in kept(tmp_path)] == ["a", "b", "c"]
    fresh = opened(tmp_path)
    assert fresh.done == 0 and not (tmp_path / "predictions.jsonl").exists()


def test_equal_names_are_different_pictures(tmp_path):
    journal = opened(tmp_path)
    assert [journal.turn(at, "a")[0] for at in range(2)] == [("a", 0), ("a", 1)]
    journal.write(1, ("a", 1), entry("a"))
    left(journal)
    again = opened(tmp_path, resume=True)
    assert [again.turn(at, "a")[1] for at in range(2)] == [False, True]


def test_parts_of_several_processes_are_joined_once(tmp_path):
    first, second = opened(tmp_path), opened(tmp_path, rank=1)
    first.write(2, ("c", 0), entry("c"))
    for index, name in ((0, "a"), (1, "b")):
        second.write(index, (name, 0), entry(name))
    second.write(1, ("b", 0), {"image": "b", "error": "later"})
    first.close(), second.close()
    assert first.finish({"checkpoint": "a.pt"}) == (3, 0)
    left(first)
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert [p["image"] for p in content["predictions"]] == ["a", "b", "c"]
    # Killed after the joined file was renamed into place, before the parts went: nothing is there twice.
    (tmp_path / "predictions-1.part.jsonl").write_bytes((tmp_path / "predictions.jsonl").read_bytes())
    assert opened(tmp_path, resume=True).done == 3 and len(kept(tmp_path)) == 3


def test_other_settings_are_not_mixed(tmp_path):
    journal = opened(tmp_path)
    journal.write(0, ("a", 0), entry("a"))
    left(journal)
    other = Journal(tmp_path, SETTINGS | {"box": [1, 2, 3, 4]})
    with other, pytest.raises(UserError, match=r"other settings.*expected the same command, or another --output"):
        other.prepare(resume=True)
    assert opened(tmp_path, settings=SETTINGS | {"box": [1, 2, 3, 4]}).done == 0  # without --resume it starts again


def test_two_runs_do_not_share_a_folder(tmp_path):
    pytest.importorskip("fcntl")
    journal = opened(tmp_path)
    with pytest.raises(UserError, match="another run is writing into"):
        Journal(tmp_path, SETTINGS).prepare(resume=True)
    left(journal)
    opened(tmp_path, resume=True)


def test_a_source_that_grew_gives_its_order(tmp_path):
    journal = opened(tmp_path)
    journal.write(0, ("b", 0), entry("b"))
    left(journal)
    again = opened(tmp_path, resume=True)
    assert [again.turn(at, name)[1] for at, name in enumerate("ab")] == [False, True]
    again.write(0, ("a", 0), entry("a"))
    again.close()
    again.finish({"checkpoint": "a.pt"})
    assert [line["image"] for line in again] == ["a", "b"]
