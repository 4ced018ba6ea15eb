"""Every kind of source gives its pictures, in order, lazily; what is broken costs one picture and no more."""

from __future__ import annotations

import io
import itertools
import os
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pyranet_fast.data.image_io import write_image
from pyranet_fast.errors import UserError
from pyranet_fast.inference import sources, video
from pyranet_fast.inference.sources import Picture, is_listed, is_live, pictures, read_ahead


def color(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


def written(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, color(value))
    return path


def names(source, **options) -> list[str]:
    return [picture.name for picture in pictures(source, **options)]


def values(source, **options) -> list[int]:
    return [int(picture.read()[0, 0, 0]) for picture in pictures(source, **options)]


def error_of(picture: Picture) -> str:
    with pytest.raises(UserError) as caught:
        picture.read()
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    for name, value in (("b.png", 2), ("a.PNG", 1), ("deep/c.png", 3), ("deep/er/d.png", 4), (".hidden.png", 9)):
        written(tmp_path / name, value)
    (tmp_path / "notes.md").write_text("no picture")
    return tmp_path


def test_folders_and_globs(folder):
    assert values(folder) == values(str(folder)) == [1, 2]
    assert values(folder, recursive=True) == [1, 2, 3, 4]
    assert values(folder, recursive=True, exclude=folder / "deep" / "er") == [1, 2, 3]
    assert values(f"{folder}/*.png") == [2]
    assert values(f"{folder}/**/*.png") == [2, 3, 4]
    brackets = written(folder / "[x].png", 7)
    assert values(str(brackets)) == [7]  # a file of that name, not a pattern
    (empty := folder / "empty").mkdir()
    assert "has no image files" in error_of(next(pictures(empty)))
    assert "matches no files" in error_of(next(pictures(f"{folder}/*.gif")))


def test_lists_of_paths(folder, monkeypatch):
    other = written(folder.parent / "other.png", 8)
    text = folder / "list.txt"
    text.write_text(f"\ufeffb.png\n\n# a comment\n{other}\ndeep\ngone.png\nlist.txt\n-\n", encoding="utf-8")
    found = list(pictures(text))
    assert [int(picture.read()[0, 0, 0]) for picture in found[:3]] == [2, 8, 3]
    assert "gone.png does not exist" in error_of(found[3])
    assert all("stands in a list" in error_of(picture) for picture in found[4:]) and len(found) == 6
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{other}\n\n{folder}\n"))
    assert values("-") == [8, 1, 2]
    text.write_text("\n")
    assert "names no images" in error_of(next(pictures(text)))
    assert "does not exist" in error_of(next(pictures(folder / "none.txt")))


def shard(path: Path, members: dict[str, bytes]) -> Path:
    mode = "w:gz" if path.suffix == ".tgz" else "w"
    with tarfile.open(path, mode) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def png(value: int) -> bytes:
    return cv2.imencode(".png", color(value))[1].tobytes()


def test_tar_shards_in_the_layout_of_webdataset(tmp_path):
    for number in range(2):
        content = {f"{number}/a.png": png(10 * number), f"{number}/a.json": b"{}", f"{number}/b.png": b"no picture"}
        shard(tmp_path / f"s-{number:03d}.tar", content | {f"{number}/c.png": png(10 * number + 1)})
    found = list(pictures(f"{tmp_path}/s-{{000..001}}.tar"))
    assert [picture.name for picture in found[:3]] == [f"{tmp_path}/s-000.tar/0/{x}.png" for x in "abc"]
    assert [int(found[i].read()[0, 0, 0]) for i in (0, 2, 3, 5)] == [0, 1, 10, 11]
    assert "0/b.png" in error_of(found[1])
    assert values(shard(tmp_path / "z.tgz", {"x.png": png(5)})) == [5]
    whole = (tmp_path / "s-000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: whole.index(png(1)) + 20])
    found = list(pictures([tmp_path / "cut.tar", tmp_path / "z.tgz"]))
    assert int(found[0].read()[0, 0, 0]) == 0 and int(found[-1].read()[0, 0, 0]) == 5
    assert "cut.tar cannot be read; expected a tar file of images" in error_of(found[-2])
    assert "has no image files" in error_of(next(pictures(shard(tmp_path / "n.tar", {"a.json": b"{}"}))))


def test_urls_go_through_fsspec(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name, data in (("a.png", png(1)), ("b.png", png(2)), ("deep/c.png", png(3)), ("notes.md", b"")):
        memory.pipe(f"/pictures/{name}", data)
    memory.pipe("/pictures/s.tar", shard(tmp_path / "s.tar", {"x.png": png(7)}).read_bytes())
    assert values("memory://pictures/b.png") == [2]
    assert values("memory://pictures") == [1, 2]
    assert values("memory://pictures", recursive=True) == [1, 2, 3]
    assert values("memory://pictures/*.png") == [1, 2]
    assert values("memory://pictures/s.tar") == [7]
    assert values(tmp_path.as_uri() + "/s.tar") == [7]
    assert "gone.png" in error_of(next(pictures("memory://pictures/gone.png")))
    assert "cannot be opened" in error_of(next(pictures("nothing://x/y.png")))
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    assert "needs fsspec" in error_of(next(pictures("memory://pictures")))


def test_arrays_tensors_and_iterators():
    stack = np.stack([color(v) for v in (1, 2, 3)])
    assert values(color(5)) == [5] and values(stack) == [1, 2, 3]
    assert values(torch.from_numpy(color(6).transpose(2, 0, 1).copy())) == [6]
    assert values(iter([color(1), stack, Picture("mine", lambda: color(9))])) == [1, 1, 2, 3, 9]
    assert names([color(0), color(0)]) == ["image 0", "image 1"]
    endless = pictures(color(v % 256) for v in itertools.count())
    assert [int(p.read()[0, 0, 0]) for p in itertools.islice(endless, 3)] == [0, 1, 2]
    for wrong in (7, b"x.png", None, [3.5]):
        with pytest.raises(TypeError, match=r"source must be .*, got "):
            list(pictures(wrong))


def test_what_is_known_beforehand():
    assert is_listed(["a.png", "folder", "*.jpg", "list.txt"]) and not is_live(["a.png"])
    assert not any(map(is_listed, ["-", "camera:0", "x.mp4", "x.tar.gz", ["a.png", "x.tar"], color(0)]))
    assert is_live("-") and is_live(["a.png", "camera:1"]) and not is_live("x.mp4")


def film(path: Path, count: int = 6) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("reader", ["av", "cv2"])
def test_videos(tmp_path, monkeypatch, reader):
    if reader == "av":
        pytest.importorskip("av")
    else:
        monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    path = film(tmp_path / "film.avi")
    frames = list(video.read_frames(path))
    assert [frame.number for frame in frames] == list(range(6))
    assert [frame.seconds for frame in frames] == pytest.approx([0.1 * n for n in range(6)], abs=1e-3)
    assert all(abs(int(f.image[20, 20, 0]) - 40 * f.number) < 6 and f.image.shape == (48, 64, 3) for f in frames)
    assert names(path)[5] == f"{path}#000005"
    (tmp_path / "bad.mp4").write_bytes(b"no film at all")
    assert "bad.mp4" in error_of(next(pictures(tmp_path / "bad.mp4")))
    assert "does not exist" in error_of(next(pictures(tmp_path / "gone.mp4")))


def test_a_video_behind_a_url(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    temporary = tmp_path / "temporary" / ("long" * 40)  # messages are cut after 160 characters
    temporary.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    memory = fsspec.filesystem("memory")
    memory.pipe("/films/walk.avi", film(tmp_path / "walk.avi").read_bytes())
    memory.pipe("/films/broken.avi", b"no video")
    found = list(pictures("memory://films/walk.avi"))
    assert [picture.name for picture in found] == [f"memory://films/walk.avi#{n:06d}" for n in range(6)]
    assert all(abs(int(picture.read()[20, 20, 0]) - 40 * n) < 6 for n, picture in enumerate(found))
    message = error_of(next(pictures("memory://films/broken.avi")))
    assert "memory://films/broken.avi" in message and "temporary" not in message
    assert "gone.avi" in error_of(next(pictures("memory://films/gone.avi")))
    assert not list(temporary.iterdir())


def test_a_turned_video_is_upright(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        image = np.zeros((48, 64, 3), np.uint8)
        image[:, :16] = 250  # a bright left edge
        for _ in range(3):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    data = path.read_bytes()
    # The rotation matrix of the track header: unity becomes 90 degrees clockwise.
    one, zero = (1 << 16).to_bytes(4, "big"), bytes(4)
    end = (1 << 30).to_bytes(4, "big")
    unity = one + zero + zero + zero + one + zero + zero + zero + end
    turned = zero + one + zero + (-(1 << 16)).to_bytes(4, "big", signed=True) + zero + zero + zero + zero + end
    at = data.index(unity, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    frame = next(iter(video.read_frames(path))).image
    assert frame.shape == (64, 48, 3)
    assert frame[:12].mean() > 200 and frame[24:].mean() < 30  # the left edge is at the top


class FakeCamera:
    def __init__(self, number):
        self.left = 3 if number == 0 else 0

    def isOpened(self):
        return self.left > 0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((4, 6, 3), (1, 2, self.left), np.uint8)

    def release(self):
        pass


def test_cameras(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    assert values("camera:0") == [2, 1, 0]  # BGR became RGB
    assert names("camera:0")[0] == "camera:0#000000"
    assert "camera:3 cannot be opened" in error_of(next(pictures("camera:3")))


def taken(items, **options):
    with read_ahead(enumerate(items), **({"threads": 2, "ahead": 4} | options)) as batches:
        yield from batches


def test_reading_ahead_keeps_the_order_and_bounds_memory():
    most, alive, lock = 0, 0, threading.Lock()

    def picture(number: int) -> Picture:
        def read():
            nonlocal most, alive
            time.sleep(0.002 * (number % 3))
            with lock:
                alive += 1
                most = max(most, alive)
            return color(number)

        return Picture(str(number), read)

    seen = []
    for batch in taken(picture(n) for n in range(40)):
        seen += [loaded.index for loaded in batch]
        assert len(batch) == 4
        with lock:
            alive -= len(batch)
    assert seen == list(range(40))
    assert most <= 4 + 4 + 4  # in the queue, in the batch, being read


def test_reading_ahead_passes_errors_on():
    def broken():
        raise UserError("image x is broken")

    batches = list(taken([Picture("a", lambda: color(1)), Picture("x", broken), Picture("b", lambda: color(2))]))
    assert [type(loaded.image) for loaded in batches[0]] == [np.ndarray, UserError, np.ndarray]

    def source():
        yield Picture("a", lambda: color(1))
        raise RuntimeError("a defect of the user's iterator")

    found = taken(source())
    assert len(next(found)) == 1
    with pytest.raises(RuntimeError, match="defect"):
        next(found)


def test_an_abandoned_stream_ends_its_threads():
    before = threading.active_count()
    found = taken(Picture(str(n), lambda: color(0)) for n in itertools.count())
    next(found)
    found.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_live_pictures_are_not_waited_for():
    more = threading.Event()

    def source():
        yield Picture("0", lambda: color(0))
        more.wait(5)
        yield Picture("1", lambda: color(1))

    found = taken(source(), live=True)
    assert [loaded.name for loaded in next(found)] == ["0"]
    more.set()
    assert [loaded.name for loaded in next(found)] == ["1"]


def test_the_newest_of_a_cameras_pictures_is_taken():
    ready = threading.Event()

    def source():
        for number in range(50):
            yield Picture(str(number), lambda: color(0))
        ready.set()

    with read_ahead(enumerate(source()), threads=1, ahead=4, live=True, newest=True) as batches:
        ready.wait(5)
        assert [loaded.name for batch in batches for loaded in batch] == ["49"]


def test_names_are_bytes_of_any_kind(tmp_path):
    if sys.platform != "linux":
        pytest.skip("file names are text there")
    raw = os.fsencode(tmp_path) + b"/\xff.png"
    with open(raw, "wb") as file:
        file.write(png(3))
    assert values(tmp_path) == [3]
