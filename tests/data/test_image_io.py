"""Pictures of every kind become RGB; broken ones become a sentence that names them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pyranet_fast.data.image_io import as_rgb, declared_size, read_image, truncation, write_image
from pyranet_fast.data.transforms import MEAN
from pyranet_fast.errors import UnreadableImageError, UserError

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


def tiff_directory(orientation: int, order: str = "<") -> bytes:
    """EXIF without its mark: what PNG and WebP hold."""
    body = struct.pack(order + "IHHHIHH", 8, 1, 0x112, 3, 1, orientation, 0) + bytes(4)
    return (b"II*\0" if order == "<" else b"MM\0*") + body


def tiff(pixels: np.ndarray, order: str = "<", big: bool = False, planes: bool = False, **tags: int) -> bytes:
    """An uncompressed TIFF or BigTIFF file of (H, W, C) pixels, written by hand; tags as ``t262=1``."""
    height, width, samples = pixels.shape
    stored = pixels.astype(pixels.dtype.newbyteorder(order))
    strips = [stored[..., i].tobytes() for i in range(samples)] if planes else [stored.tobytes()]
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    values = {
        256: [width],
        257: [height],
        258: [8 * pixels.itemsize] * samples,
        259: [1],
        262: [2 if samples > 2 else 1],
    }
    values |= {273: [0] * len(strips), 277: [samples], 278: [height], 279: [len(strip) for strip in strips]}
    values |= {284: [2 if planes else 1], 339: [kind] * samples}
    values |= {int(tag[1:]): [value] for tag, value in tags.items()}
    offset, count, room = ("Q", "Q", 8) if big else ("I", "H", 4)
    start = 16 if big else 8
    outside = start + (8 + 20 * len(values) + 8 if big else 2 + 12 * len(values) + 4)
    wide = {tag: len(value) * (4 if tag in (273, 279) else 2) for tag, value in values.items()}
    first = outside + sum(size for size in wide.values() if size > room)
    values[273] = [first + sum(map(len, strips[:i])) for i in range(len(strips))]
    entries, extra = b"", b""
    for tag in sorted(values):
        form = 4 if tag in (273, 279) else 3
        raw = struct.pack(f"{order}{len(values[tag])}{'I' if form == 4 else 'H'}", *values[tag])
        entries += struct.pack(f"{order}HH{offset}", tag, form, len(values[tag]))
        entries += raw.ljust(room, b"\0") if len(raw) <= room else struct.pack(order + offset, outside + len(extra))
        extra += raw if len(raw) > room else b""
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    directory = struct.pack(order + count, len(values)) + entries + bytes(room)
    return mark + head + directory + extra + b"".join(strips)


def webp(rgba: np.ndarray, exif_block: bytes) -> bytes:
    """A lossless WebP file in its extended form, with an EXIF chunk."""
    order = cv2.COLOR_RGBA2BGRA if rgba.shape[2] == 4 else cv2.COLOR_RGB2BGR
    simple = cv2.imencode(".webp", cv2.cvtColor(rgba, order), [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    at, chunks = 12, []
    while at < len(simple):
        size = int.from_bytes(simple[at + 4 : at + 8], "little")
        chunks.append((simple[at : at + 4], simple[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    height, width = rgba.shape[:2]
    flags = 8 | (16 if rgba.shape[2] == 4 else 0)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = [(b"VP8X", bytes([flags, 0, 0, 0]) + size)]
    parts += [*(chunk for chunk in chunks if chunk[0] != b"VP8X"), (b"EXIF", exif_block)]
    body = b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def flat_jpeg(color: tuple[int, ...], *, adobe: int | None) -> bytes:
    """A baseline JPEG of 8 x 8 equal pixels, as they are stored, with Adobe's mark (its color transform) or without."""

    def segment(mark: int, body: bytes) -> bytes:
        return bytes([0xFF, mark]) + struct.pack(">H", 2 + len(body)) + body

    numbers = range(1, len(color) + 1)
    bits = ""
    for value in color:
        level = 8 * (value - 128)
        size = abs(level).bit_length()
        bits += f"{size:04b}" + (f"{level if level > 0 else level + 2**size - 1:0{size}b}" if size else "") + "0"
    bits += "1" * (-len(bits) % 8)
    scan = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    mark = b"" if adobe is None else segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, adobe))
    frame = struct.pack(">BHHB", 8, 8, 8, len(color)) + b"".join(bytes([n, 0x11, 0]) for n in numbers)
    sizes = segment(0xC4, bytes([0, 0, 0, 0, 12, *[0] * 12, *range(12)]))  # twelve codes of four bits
    ends = segment(0xC4, bytes([0x10, 1, *[0] * 15, 0]))  # one code: the block ends
    order = bytes([len(color), *(x for n in numbers for x in (n, 0)), 0, 63, 0])
    head = b"\xff\xd8" + mark + segment(0xDB, bytes([0, *[1] * 64])) + segment(0xC0, frame) + sizes + ends
    return head + segment(0xDA, order) + scan + b"\xff\xd9"


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


def some_pixels(samples: int, dtype: type = np.uint8) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (5, 7, samples), dtype=dtype, endpoint=True)
    if samples in (2, 4):
        pixels[..., -1] = np.iinfo(dtype).max
    return pixels


def rows_of(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)


def png_with_exif(pixels: np.ndarray, block: bytes, behind: bool = False) -> bytes:
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]]
    whole = png(kind, 8 * pixels.itemsize, pixels.shape[1], pixels.shape[0], rows_of(pixels), (b"eXIf", block))
    if behind:  # the chunk after the pixels
        size = 12 + len(block)
        whole = whole[:33] + whole[33 + size : -12] + whole[33 : 33 + size] + whole[-12:]
    return whole


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_png_is_turned_with_transparency_and_without(tmp_path, orientation, samples):
    for dtype in (np.uint8, np.uint16):
        pixels = some_pixels(samples, dtype)
        upright = pixels[..., :1].repeat(3, 2) if samples < 3 else pixels[..., :3]
        expected = ORIENTED[orientation](upright / (1 if dtype == np.uint8 else 257))
        for block in (tiff_directory(orientation), tiff_directory(orientation, ">"), exif(orientation)):
            for behind in (False, True):
                path = stored(tmp_path, "a.png", png_with_exif(pixels, block, behind))
                np.testing.assert_allclose(read_image(path), expected, atol=0.5)


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("samples", [3, 4])
def test_webp_is_turned_with_transparency_and_without(tmp_path, orientation, samples):
    pixels = some_pixels(samples)
    pixels[0, 0, 3:] = 0
    upright = read_image(stored(tmp_path, "a.webp", webp(pixels, tiff_directory(1))))
    np.testing.assert_array_equal(upright[1:], pixels[1:, :, :3])
    assert samples == 3 or upright[0, 0].tolist() == MEAN_255
    for block in (tiff_directory(orientation), tiff_directory(orientation, ">"), exif(orientation)):
        turned = read_image(stored(tmp_path, "b.webp", webp(pixels, block)))
        np.testing.assert_array_equal(turned, ORIENTED[orientation](upright))


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_tiff_is_turned_with_transparency_and_without(tmp_path, orientation, samples):
    for dtype in (np.uint8, np.uint16):
        pixels = some_pixels(samples, dtype)
        upright = pixels[..., :1].repeat(3, 2) if samples == 1 else pixels[..., :3]
        expected = ORIENTED[orientation](upright / (1 if dtype == np.uint8 else 257))
        for order in "<>":
            more = {"t338": 2} if samples == 4 else {}
            path = stored(tmp_path, "a.tif", tiff(pixels, order, t274=orientation, **more))
            np.testing.assert_allclose(read_image(path), expected, atol=0.51)


@pytest.mark.parametrize("orientation", ORIENTED)
def test_avif_is_turned(tmp_path, orientation):
    pil, features = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.features")
    if not features.check("avif") or not cv2.haveImageWriter("a.avif"):
        pytest.skip("no AVIF here")
    image = pil.fromarray(smooth(32, 48))
    tags = image.getexif()
    tags[0x112] = orientation
    image.save(tmp_path / "plain.avif", quality=100)
    image.save(tmp_path / "turned.avif", quality=100, exif=tags)
    expected = ORIENTED[orientation](read_image(tmp_path / "plain.avif"))
    np.testing.assert_array_equal(read_image(tmp_path / "turned.avif"), expected)


@pytest.mark.parametrize(
    "block", [b"", b"II*\0", tiff_directory(0), tiff_directory(9), tiff_directory(6)[:-8], b"x" * 30]
)
def test_an_orientation_that_makes_no_sense_is_none(tmp_path, block):
    pixels = some_pixels(3)
    for data in (png_with_exif(pixels, block), webp(pixels, block)):
        np.testing.assert_array_equal(read_image(stored(tmp_path, "a", data)), pixels)
    data = with_segment(jpeg_bytes(pixels), b"Exif\0\0" + block)
    assert read_image(stored(tmp_path, "a.jpg", data)).shape == pixels.shape


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (np.float16, "its pixels are 16-bit floats; expected 8 or 16 bits"),
        (np.float32, "its pixels are 32-bit floats; expected 8 or 16 bits"),
        (np.float64, "its pixels are 64-bit floats; expected 8 or 16 bits"),
        (np.int8, "its pixels are signed 8-bit numbers; expected 8 or 16"),
        (np.int16, "its pixels are signed 16-bit numbers; expected 8 or 16"),
        (np.int32, "its pixels are signed 32-bit numbers; expected 8 or 16"),
        (np.uint32, "its pixels are 32-bit numbers; expected 8 or 16"),
    ],
)
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_other_pixels_in_a_tiff_get_a_sentence(tmp_path, dtype, words, samples):
    for options in ({}, {"order": ">"}, {"big": True}):
        path = stored(tmp_path, "a.tif", tiff(np.ones((2, 3, samples), dtype), **options))
        with pytest.raises(UserError, match=f"a.tif cannot be read: {words}"):
            read_image(path)


def test_floats_of_other_formats_get_a_sentence(tmp_path):
    floats = np.ones((4, 4, 3), np.float32)
    files = {"a.hdr": cv2.imencode(".hdr", floats)[1].tobytes(), "a.pfm": b"PF\n1 1\n-1.0\n" + bytes(12)}
    for name, data in files.items():
        with pytest.raises(UserError, match="its pixels are 32-bit floats; expected 8 or 16 bits"):
            read_image(stored(tmp_path, name, data))
    with pytest.raises(UserError, match=r"its pixels are floating-point numbers \(OpenEXR\)"):
        read_image(stored(tmp_path, "a.exr", b"\x76\x2f\x31\x01\x02\0\0\0" + bytes(100)))


def test_formats_that_are_not_read_are_named(tmp_path):
    with pytest.raises(UserError, match=r"it is a HEIC image, which is not read; save it as JPEG or PNG"):
        read_image(stored(tmp_path, "a.heic", b"\0\0\0\x18ftypheic" + bytes(100)))
    with pytest.raises(UserError, match=r"it is a PAM image"):
        pam = b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(3)
        read_image(stored(tmp_path, "a.pam", pam))
    with pytest.raises(UserError, match=r"a TIFF of a form that OpenCV does not read \(16 bits, 4 samples, .* 5, "):
        read_image(stored(tmp_path, "a.tif", tiff(some_pixels(4, np.uint16), t262=5)))


@pytest.mark.parametrize("options", [{}, {"order": ">"}, {"big": True}, {"planes": True}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("samples", [1, 3])
def test_tiff_of_8_and_16_bits(tmp_path, options, dtype, samples):
    pixels = some_pixels(samples, dtype)
    expected = pixels.repeat(4 - samples if samples == 3 else 3, 2) / (1 if dtype == np.uint8 else 257)
    np.testing.assert_allclose(read_image(stored(tmp_path, "a.tif", tiff(pixels, **options))), expected, atol=0.51)
    if samples == 1:  # white is 0
        inverse = read_image(stored(tmp_path, "b.tif", tiff(pixels, **options, t262=0)))
        np.testing.assert_allclose(inverse, 255 - expected, atol=0.51)


def test_tiff_of_few_bits_and_of_inks(tmp_path):
    bits = np.array([[[0x0F]]], np.uint8)
    image = read_image(stored(tmp_path, "bits.tif", tiff(bits, t256=8, t258=1)))
    assert image[0, :, 0].tolist() == [0] * 4 + [255] * 4
    twelve = np.array([[[0xFF], [0xF8], [0x00]]], np.uint8)
    assert read_image(stored(tmp_path, "12.tif", tiff(twelve, t256=2, t258=12)))[0, :, 0].tolist() == [255, 128]
    inks = np.array([[[0, 255, 255, 0], [255, 255, 0, 0], [0, 0, 0, 255]]], np.uint8)
    image = read_image(stored(tmp_path, "inks.tif", tiff(inks, t262=5)))
    assert image.tolist() == [[[255, 0, 0], [0, 0, 255], [0, 0, 0]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_half_transparency_in_a_tiff(tmp_path, dtype):
    unit = np.iinfo(dtype).max // 255
    expected = np.array([200, 100, 50]) * (128 / 255) + np.array(MEAN_255) * (127 / 255)
    plain = (np.array([[[200, 100, 50, 128]]]) * unit).astype(dtype)
    multiplied = (np.array([[[100, 50, 25, 128]]]) * unit).astype(dtype)
    for pixels, kind in ((plain, 2), (multiplied, 1), (multiplied, 0)):
        pixel = read_image(stored(tmp_path, "a.tif", tiff(pixels, t338=kind)))[0, 0]
        np.testing.assert_allclose(pixel, expected, atol=1.5)


def test_the_first_page_of_a_tiff(tmp_path):
    pages = [np.full((8, 8, 3), value, np.uint8) for value in (10, 200)]
    fine, data = cv2.imencodemulti(".tiff", pages)
    assert fine and (read_image(stored(tmp_path, "pages.tif", data.tobytes())) == 10).all()


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png"])
def test_the_first_picture_of_an_animation(tmp_path, suffix):
    if not hasattr(cv2, "imencodeanimation") or not cv2.haveImageWriter(f"a{suffix}"):
        pytest.skip("this OpenCV writes no animations")
    animation = cv2.Animation()
    frames = [np.full((16, 16, 3), color, np.uint8) for color in ((0, 0, 255), (255, 0, 0))]
    animation.frames, animation.durations = frames, [100, 100]
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    fine, data = cv2.imencodeanimation(suffix, animation, options)
    assert fine
    image = read_image(stored(tmp_path, f"a{suffix}", data.tobytes()))
    assert image.shape == (16, 16, 3)
    np.testing.assert_allclose(image, np.broadcast_to((255, 0, 0), image.shape), atol=8)


@pytest.mark.parametrize(
    ("adobe", "stored_as"),
    [
        (0, (255, 55, 105, 200)),  # inks, inverted
        (2, None),  # the same as YCbCr and K
    ],
)
def test_inks_in_a_jpeg(tmp_path, adobe, stored_as):
    inks = np.array([255, 55, 105, 200])  # as Adobe stores cyan 0, magenta 200, yellow 150, black 55
    if stored_as is None:
        rgb = 255.0 - inks[:3]  # YCCK: the inks' complements in YCbCr
        y = rgb @ (0.299, 0.587, 0.114)
        stored_as = tuple(np.rint([y, 128 + 0.564 * (rgb[2] - y), 128 + 0.713 * (rgb[0] - y), 200]).astype(int))
    image = read_image(stored(tmp_path, "a.jpg", flat_jpeg(tuple(int(v) for v in stored_as), adobe=adobe)))
    np.testing.assert_allclose(image, np.broadcast_to(inks[:3] * 200 / 255, (8, 8, 3)), atol=4)


def test_inks_without_adobes_mark_get_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"it is a CMYK JPEG without Adobe's mark.*save it as RGB"):
        read_image(stored(tmp_path, "a.jpg", flat_jpeg((0, 200, 150, 55), adobe=None)))
    assert read_image(stored(tmp_path, "g.jpg", flat_jpeg((77,), adobe=None)))[0, 0].tolist() == [77] * 3
    assert read_image(stored(tmp_path, "r.jpg", flat_jpeg((250, 10, 20), adobe=0)))[0, 0].tolist() == [250, 10, 20]


def test_few_bits_in_a_png(tmp_path):
    assert read_image(stored(tmp_path, "1.png", png(0, 1, 8, 1, b"\0\x0f")))[0, :, 0].tolist() == [0] * 4 + [255] * 4
    assert read_image(stored(tmp_path, "4.png", png(0, 4, 2, 1, b"\0\xf7")))[0, :, 0].tolist() == [255, 119]
    palette = (b"PLTE", bytes([255, 0, 0, 0, 255, 0]))
    assert read_image(stored(tmp_path, "p.png", png(3, 1, 2, 1, b"\0\x40", palette))).tolist() == [
        [[255, 0, 0], [0, 255, 0]]
    ]


@pytest.mark.parametrize(("depth", "row", "shade"), [(8, bytes([0, 1, 4]), 4), (4, b"\0\x14", 4), (1, b"\0\x40", 1)])
def test_one_transparent_color(tmp_path, depth, row, shade):
    path = stored(tmp_path, "g.png", png(0, depth, 2, 1, row, (b"tRNS", struct.pack(">H", shade))))
    assert read_image(path)[0, 1].tolist() == MEAN_255 and read_image(path)[0, 0, 0] < 20
    data = png(2, 8, 2, 1, bytes([0, 1, 2, 3, 4, 5, 6]), (b"tRNS", struct.pack(">HHH", 4, 5, 6)))
    assert read_image(stored(tmp_path, "c.png", data)).tolist() == [[[1, 2, 3], MEAN_255]]


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b"P5\n3 1\n100\n" + bytes([100, 0, 50]), [255, 0, 128]),
        (b"P2\n# made by hand\n3 1\n100\n100 0 50\n", [255, 0, 127]),
        (b"P5 3 1 1023\n" + struct.pack(">HHH", 1023, 0, 512), [255, 0, 128]),
        (b"P2\n3 1\n1000\n1000 0 500\n", [255, 0, 128]),
        (b"P5\n3 1\n65535\n" + struct.pack(">HHH", 65535, 0, 0x8000), [255, 0, 128]),
        (b"P6\n1 1\n100\n" + bytes([100, 0, 50]), None),
        (b"P6\n1 1\n1023\n" + struct.pack(">HHH", 1023, 0, 512), None),
        (b"P6\n1 1\n255\n" + bytes([255, 0, 128]), None),
    ],
)
def test_the_white_of_pgm_and_ppm(tmp_path, data, values):
    image = read_image(stored(tmp_path, "a.pnm", data))
    expected = [[255, 0, 128]] if values is None else [[v] * 3 for v in values]
    np.testing.assert_allclose(image[0], expected, atol=1)


def test_damaged_chunks(tmp_path):
    def with_chunk(kind: bytes, body: bytes, wrong: int) -> bytes:
        whole = png(2, 8, 1, 1, bytes([0, 1, 2, 3]), (kind, body))
        return whole[: 33 + 8 + len(body)] + bytes([whole[33 + 8 + len(body)] ^ wrong]) + whole[33 + 9 + len(body) :]

    for kind, body in ((b"tEXt", b"a\0b"), (b"eXIf", tiff_directory(6)), (b"iCCP", b"x\0\0nonsense")):
        image = read_image(stored(tmp_path, "a.png", with_chunk(kind, body, 1)))
        assert image.tolist() == [[[1, 2, 3]]]
    with pytest.raises(UserError, match="it is damaged: the checksum of its PLTE chunk is wrong"):
        read_image(stored(tmp_path, "b.png", with_chunk(b"PLTE", bytes(3), 1)))


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
        "folder.jpg": "must be a file, got the folder",
        "empty.jpg": "is empty",
        "text.png": "not an image",
        "huge.png": "40000 x 40000 pixels; expected at most",
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


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff"])
def test_the_limit_in_pixels_is_asked_before_decoding(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"x{suffix}"
    assert cv2.imwrite(str(path), np.zeros((30, 40, 3), np.uint8))
    monkeypatch.setenv("PYRANET_FAST_MAX_PIXELS", "1200")
    assert read_image(path).shape == (30, 40, 3)
    monkeypatch.setenv("PYRANET_FAST_MAX_PIXELS", "1199")
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(UnreadableImageError, match=r"it has 40 x 30 pixels; expected at most 1,199 in all") as caught:
        read_image(path)
    assert caught.value.reason == "is too large"
    monkeypatch.setenv("PYRANET_FAST_MAX_PIXELS", "many")
    with pytest.raises(UserError, match="PYRANET_FAST_MAX_PIXELS is 'many'"):
        read_image(path)


@pytest.mark.parametrize("quality", [50, 101])
def test_sizes_of_lossy_and_lossless_webp_are_in_their_headers(tmp_path, quality):
    path = tmp_path / "x.webp"
    assert cv2.imwrite(str(path), smooth(31, 400), [cv2.IMWRITE_WEBP_QUALITY, quality])
    data = path.read_bytes()
    assert data[12:16] == (b"VP8 " if quality < 101 else b"VP8L")
    assert declared_size(data) == (400, 31)


def test_images_of_more_than_200_million_pixels_are_refused(tmp_path):
    """A PNG of 70 bytes that declares 3.6 GB."""
    path = tmp_path / "bomb.png"
    assert cv2.imwrite(str(path), np.zeros((1, 1), np.uint8))
    data = bytearray(path.read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") + (20_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=r"60000 x 20000 pixels; expected at most 200,000,000 in all"):
        read_image(path)
