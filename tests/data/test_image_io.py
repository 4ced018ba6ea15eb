"""Pictures of every kind become RGB; broken ones become a sentence that names them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pyranet_fast.data.image_io import as_rgb, read_image, truncation, write_image
from pyranet_fast.data.transforms import MEAN
from pyranet_fast.errors import UserError

MEAN_255 = [round(255 * m) for m in MEAN]


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An RGB picture that JPEG changes little."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def png(color_type: int, depth: int, width: int, height: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG file from its raw rows (each with a leading 0), written by hand."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    parts = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def jpeg_bytes(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


def with_segment(jpeg: bytes, body: bytes) -> bytes:
    """The JPEG with an APP1 segment after its start mark."""
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body + jpeg[2:]


def exif(orientation: int) -> bytes:
    """An EXIF block of one entry: 0x0112, one SHORT."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0) + bytes(4)


def stored(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_round_trip_is_exact(tmp_path, suffix):
    image = smooth(13, 9)
    write_image(tmp_path / f"a{suffix}", image)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), image)


def test_colors_are_rgb(tmp_path):
    path = stored(tmp_path, "red.png", png(2, 8, 1, 1, bytes([0, 250, 10, 20])))
    assert read_image(path).tolist() == [[[250, 10, 20]]]


@pytest.mark.parametrize("name", ["照片 écran.png", "a b'c.png", "UPPER.PNG"])
def test_names_in_any_script(tmp_path, name):
    image = smooth(6, 7)
    write_image(tmp_path / name, image)
    np.testing.assert_array_equal(read_image(str(tmp_path / name)), image)


def test_grey_and_sixteen_bits(tmp_path):
    gray = read_image(stored(tmp_path, "g.png", png(0, 8, 2, 1, bytes([0, 10, 200]))))
    assert gray.tolist() == [[[10] * 3, [200] * 3]]
    deep = png(0, 16, 2, 1, b"\0" + struct.pack(">HH", 0xFFFF, 0x8000))
    assert read_image(stored(tmp_path, "g16.png", deep)).tolist() == [[[255] * 3, [128] * 3]]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [(6, [0, 200, 100, 50, 255, 200, 100, 50, 0]), (4, [0, 77, 255, 77, 0])],
    ids=["rgba", "gray with alpha"],
)
def test_transparency_is_filled_with_the_mean(tmp_path, kind, rows):
    image = read_image(stored(tmp_path, "t.png", png(kind, 8, 2, 1, bytes(rows))))
    opaque = [200, 100, 50] if kind == 6 else [77] * 3
    assert image.tolist() == [[opaque, MEAN_255]]


def test_sixteen_bit_and_half_transparency(tmp_path):
    rows = b"\0" + struct.pack(">HHHH", 0xFFFF, 0x8080, 0, 0x8080)
    pixel = read_image(stored(tmp_path, "t16.png", png(6, 16, 1, 1, rows)))[0, 0]
    expected = np.array([255, 128, 0]) * (128 / 255) + np.array(MEAN_255) * (127 / 255)
    np.testing.assert_allclose(pixel, expected, atol=1)


def test_palette_with_a_transparent_color(tmp_path):
    extra = ((b"PLTE", bytes([255, 0, 0, 0, 255, 0])), (b"tRNS", bytes([255, 0])))
    image = read_image(stored(tmp_path, "p.png", png(3, 8, 2, 1, bytes([0, 0, 1]), *extra)))
    assert image.tolist() == [[[255, 0, 0], MEAN_255]]


# What the viewer must do with the stored pixels, by the EXIF standard.
ORIENTED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_orientation_is_applied(tmp_path, orientation):
    image = smooth(16, 24)
    plain = jpeg_bytes(image)
    upright = read_image(stored(tmp_path, "plain.jpg", plain))
    turned = read_image(stored(tmp_path, "turned.jpg", with_segment(plain, exif(orientation))))
    np.testing.assert_array_equal(turned, ORIENTED[orientation](upright))
    assert np.abs(upright.astype(int) - image).mean() < 8  # not sideways, not blue for red


def test_one_pixel_and_very_long_images(tmp_path):
    write_image(tmp_path / "one.png", np.full((1, 1, 3), 7, np.uint8))
    assert read_image(tmp_path / "one.png").tolist() == [[[7, 7, 7]]]
    write_image(tmp_path / "long.png", np.zeros((2, 40000, 3), np.uint8))
    assert read_image(tmp_path / "long.png").shape == (2, 40000, 3)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_truncated_files_are_named(tmp_path, suffix, share):
    data = cv2.imencode(suffix, smooth(64, 48))[1].tobytes()
    path = stored(tmp_path, f"half{suffix}", data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"half.* is truncated"):
        read_image(path)


def test_a_thumbnail_does_not_hide_truncation(tmp_path):
    whole = jpeg_bytes(smooth(64, 48))
    data = with_segment(whole, b"thumbnail" + jpeg_bytes(smooth(8, 8)))
    assert truncation(data) is None
    assert truncation(data[:-2]) is not None
    with pytest.raises(UserError, match="truncated"):
        read_image(stored(tmp_path, "cut.jpg", data[: len(data) - len(whole) // 3]))


def test_a_download_filled_with_zeros_is_truncated():
    data = jpeg_bytes(smooth(64, 48))
    assert truncation(data[: len(data) // 2] + bytes(len(data) // 2)) is not None


def test_progressive_and_restart_marks_and_trailing_bytes_are_whole():
    image = smooth(64, 48)
    for options in ([cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]):
        data = cv2.imencode(".jpg", image, options)[1].tobytes()
        assert truncation(data) is None
        assert truncation(data + b"\0\xff trailing film") is None
        assert truncation(data[:-2]) is not None


def test_bad_files_get_a_sentence(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    stored(tmp_path, "empty.jpg", b"")
    stored(tmp_path, "text.png", b"this is no picture")
    stored(tmp_path, "huge.png", png(0, 8, 40000, 40000, b""))
    expected = {
        "missing.jpg": "does not exist",
        "folder.jpg": "is a folder",
        "empty.jpg": "is empty",
        "text.png": "not an image",
        "huge.png": "more pixels",
    }
    for name, reason in expected.items():
        with pytest.raises(UserError, match=reason) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_pixels_get_a_sentence(tmp_path):
    data = bytearray(png(2, 8, 2, 2, bytes([0, *range(6), 0, *range(6)])))
    data[-20] ^= 0x55
    with pytest.raises(UserError, match=r"bad\.png cannot be read"):
        read_image(stored(tmp_path, "bad.png", bytes(data)))


def test_arrays_and_tensors_become_rgb():
    rgb = smooth(5, 7)
    np.testing.assert_array_equal(as_rgb(rgb), rgb)
    np.testing.assert_array_equal(as_rgb(torch.from_numpy(rgb.transpose(2, 0, 1).copy())), rgb)
    gray = rgb[..., 0]
    for form in (gray, gray[..., None], torch.from_numpy(gray.copy()), torch.from_numpy(gray[None].copy())):
        np.testing.assert_array_equal(as_rgb(form), np.stack([gray] * 3, axis=2))
    rgba = np.dstack([rgb, np.where(gray > gray.mean(), 255, 0).astype(np.uint8)])
    filled = as_rgb(rgba)
    np.testing.assert_array_equal(filled[rgba[..., 3] == 255], rgb[rgba[..., 3] == 255])
    assert (filled[rgba[..., 3] == 0] == MEAN_255).all()
    np.testing.assert_array_equal(as_rgb(rgb[::-1, ::-2]), rgb[::-1, ::-2])


@pytest.mark.parametrize(
    ("image", "kind", "words"),
    [
        (np.zeros((4, 4, 3)), TypeError, "float64"),
        (torch.zeros(3, 4, 4), TypeError, "torch.float32"),
        ([[1, 2]], TypeError, "list"),
        (None, TypeError, "NoneType"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"\(3, 8, 8\)"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"\(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "at least one pixel"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ValueError, r"\(2, 3, 4, 4\)"),
    ],
)
def test_other_arrays_get_a_sentence(image, kind, words):
    with pytest.raises(kind, match=words):
        as_rgb(image)


def test_writing_says_what_it_cannot_do(tmp_path):
    with pytest.raises(UserError, match="suffix"):
        write_image(tmp_path / "a.txt", smooth(4, 4))
    with pytest.raises(UserError, match="70000 x 1"):
        write_image(tmp_path / "a.jpg", np.zeros((1, 70000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
