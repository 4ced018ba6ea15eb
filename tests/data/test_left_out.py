"""What is said of people who are left out, before and after, by every command that leaves people out."""

from __future__ import annotations

import json

import pytest

from pyranet_fast import cli, evaluate, train
from pyranet_fast.data import COCOSource, pack
from pyranet_fast.data.left_out import LeftOut, missing_images, with_images
from pyranet_fast.errors import DataWarning, UserError
from tests.data.coco_people import dogs, write


def test_the_sentence():
    left_out = LeftOut()
    assert not left_out and left_out.pictures == 0 and left_out.counts() == {}
    left_out.add("of crowds", "a.jpg", first="annotation 1")
    assert left_out.sentence(3) == "1 of 3 people, in 1 picture, is left out: 1 of crowds (annotation 1)"
    left_out.add("whose picture is missing", "b.jpg", first="b.jpg")
    left_out.add("whose picture is missing", "b.jpg", first="b.jpg")
    assert len(left_out) == 3 and left_out.pictures == 2
    assert left_out.sentence(9) == (
        "3 of 9 people, in 2 pictures, are left out: 2 whose picture is missing (first: b.jpg); "
        "1 of crowds (annotation 1)"
    )


@pytest.fixture
def root(tmp_path):
    """Twelve dogs: the first one's picture is missing, the third's truncated; one label cannot be right."""
    content = dogs()
    content["annotations"][5]["bbox"] = [10, 15, 0, 0]
    write(tmp_path, content)
    write(tmp_path, content, "val.json")
    (tmp_path / "images" / "pack" / "000.jpg").unlink()
    path = tmp_path / "images" / "pack" / "002.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    return tmp_path


LABELS = "dogs.json: 1 of 12 people, in 1 picture, is left out: 1 whose box has no size (annotation 105"
MISSING = "1 of 11 people, in 1 picture, is left out: 1 whose picture is missing (pack/000.jpg)"


def test_missing_images(root):
    source = COCOSource("dogs.json", root)
    assert missing_images(source).counts() == {"whose picture is missing": 1}
    with pytest.warns(
        DataWarning, match=r"coco dogs\.json: 1 of 11 people, in 1 picture, is left out: 1 whose picture"
    ):
        assert len(with_images(source)) == 10
    for image in (root / "images" / "pack").iterdir():
        if image.name != "003.jpg":
            image.unlink()
    assert len(with_images(COCOSource("dogs.json", root))) == 1


@pytest.mark.parametrize("cache", ["--cache", "--no-cache"])
def test_train(root, tmp_path, capsys, cache):
    flags = [
        "--dataset", "coco:dogs.json,val.json", "--root", str(root), "--output", str(tmp_path / "out"), "--stacks", "1",
        "--features", "8", "--depth", "1", "--base-width", "2", "--input-size", "32", "--batch-size", "5", "--epochs",
        "2", "--device", "cpu", cache,
    ]  # fmt: skip
    assert cli.run(train.main, flags) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert LABELS in said and "error: image " in said and ("000.jpg" in said or "002.jpg" in said)
    assert cli.run(train.main, [*flags, "--on-error", "skip"]) == 0
    said = capsys.readouterr().err
    assert LABELS in said and f"note: coco dogs.json: {MISSING}" in said and f"note: coco val.json: {MISSING}" in said
    # What is truncated is found when it is read: with the cache before training, and in any case in the end.
    sentence = "1 of 10 people, in 1 picture, is left out: 1 whose picture is truncated (pack/002.jpg)"
    assert (f"note: coco dogs.json (10 of 11): {sentence}" in said) == (cache == "--cache")
    assert "left out: picture pack/002.jpg is truncated (1 people so far)" in said
    assert said.rstrip().splitlines()[-1] == f"coco dogs.json (10 of 11): {sentence}"


def test_evaluate(root, tmp_path, capsys):
    from tests.test_evaluate_every_dataset import checkpoint_for

    name = "coco:dogs.json,val.json"
    flags = ["--checkpoint", str(checkpoint_for(name, root, tmp_path)), "--dataset", name, "--root", str(root)]
    flags += ["--output", str(tmp_path / "out")]
    assert cli.run(evaluate.main, flags) == cli.BAD_INPUT
    assert "000.jpg does not exist" in capsys.readouterr().err
    assert cli.run(evaluate.main, [*flags, "--on-error", "skip", "--write", "coco"]) == 0
    said = capsys.readouterr().err
    assert LABELS.replace("dogs", "val") in said and f"coco val.json: {MISSING}" in said
    after = (
        "coco val.json: 2 of 11 people, in 2 pictures, are left out: 1 whose picture is missing (pack/000.jpg); "
        "1 whose picture is truncated (pack/002.jpg)"
    )
    assert said.index(MISSING) < said.index(after)
    settings = json.loads((tmp_path / "out" / "metrics.json").read_text())["settings"]
    assert settings["unreadable"] == 2 and settings["unreadable_pictures"] == 2
    assert settings["unreadable_reasons"] == {"whose picture is missing": 1, "whose picture is truncated": 1}
    ids = [person["annotation_id"] for person in json.loads((tmp_path / "out" / "coco_results.json").read_text())]
    assert ids == [101, 103, 104, *range(106, 112)]


def test_pack(root, tmp_path, capsys):
    flags = ["--dataset", "coco:dogs.json,val.json", "--root", str(root), "--output", str(tmp_path / "dogs.pack")]
    assert cli.run(pack.main, flags) == cli.BAD_INPUT
    assert "000.jpg does not exist" in capsys.readouterr().err and not (tmp_path / "dogs.pack").exists()
    assert cli.run(pack.main, [*flags, "--on-error", "skip", "--splits", "train"]) == 0
    said = "".join(capsys.readouterr())
    assert f"coco dogs.json: {MISSING}" in said
    assert (
        "coco dogs.json: 2 of 11 people, in 2 pictures, are packed without a picture: 1 whose picture is missing "
        "(pack/000.jpg); 1 whose picture is truncated (pack/002.jpg)"
    ) in said


def test_nobody_is_left(root, tmp_path, capsys):
    for image in (root / "images" / "pack").iterdir():
        image.write_bytes(b"\xff\xd8")
    flags = ["--dataset", "coco:dogs.json,val.json", "--root", str(root), "--output", str(tmp_path / "dogs.pack")]
    assert cli.run(pack.main, [*flags, "--on-error", "skip"]) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert "no image of the 11 people can be read: 10 whose picture is truncated" in said
    assert "1 whose picture is missing" in said
    with pytest.raises(UserError, match="none of its 11 images"):
        _without_images(root)


def _without_images(root):
    for image in (root / "images" / "pack").iterdir():
        image.unlink()
    return COCOSource("dogs.json", root)
