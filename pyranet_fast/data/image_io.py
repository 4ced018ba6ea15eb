"""Image input and output: any file or array becomes (H, W, 3) uint8 RGB, or one sentence that says what is wrong.

OpenCV decodes. This module handles what OpenCV leaves open or changes between versions: transparency, orientation,
pixels that are not 8 bits, truncated files, file names in any script.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UnreadableImageError, UserError
from ..io import atomic_write, max_pixels
from .dataset import Image
from .transforms import MEAN

WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_NOT_AN_IMAGE = "it is not an image of a known format, or it is damaged"
_ACCEPTED = "expected 8 or 16 bits"
_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Chunks that say what the pixels are. The decoder sees no others: color profiles that are not quite as the standard has
# them, and there are many, make it write to stderr.
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MARK = b"tEXtpyranet-fast image\0"
_EXR = b"\x76\x2f\x31\x01"
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Within a scan, 0xFF is followed by 0 (a stuffed byte) or by a restart mark; anything else ends the scan.
_AFTER_SCAN = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")


def read_image(path: str | Path) -> Image:
    """Read an image file.

    Gray becomes three equal channels, 16 bits become 8, and the EXIF orientation is applied. Transparent pixels are
    filled with the mean of the training images, like the outside of an image; the network input is zero there. Only
    the first frame or page is read.

    Args:
        path: file of any format that OpenCV reads: JPEG, PNG, WebP, BMP, TIFF, …; 8 or 16 bits, up to `max_pixels`
            pixels.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UnreadableImageError: no such file, a folder, no permission, not an image, truncated, too large, or an
            unsupported pixel type.
    """
    return read_image_bytes(_read_bytes(Path(path)), path)


def read_image_bytes(data: bytes, name: object) -> Image:
    """Read an image from the bytes of a file, see `read_image`.

    Args:
        data: content of the file.
        name: name in messages.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UnreadableImageError: not an image, truncated, too large, or an unsupported pixel type.
    """
    if not data:
        raise UnreadableImageError(f"image {name} is empty (0 bytes)", "is damaged or no image")
    fault = truncation(data)
    if fault is not None:
        raise UnreadableImageError(f"image {name} is truncated: {fault}", "is truncated")
    try:
        return decode(data)
    except MemoryError as error:
        raise _too_large(name) from error
    except ValueError as error:
        kind = "is damaged or no image" if str(error) == _NOT_AN_IMAGE else "cannot be read"
        kind = "is too large" if "--max-pixels" in str(error) else kind
        raise UnreadableImageError(f"image {name} cannot be read: {error}", kind) from error
    except cv2.error as error:
        if "Insufficient memory" in str(error):
            raise _too_large(name) from error
        if "PIXELS" in str(error):
            reason = f"image {name} cannot be read: it has more pixels than OpenCV reads (2^30)"
            raise UnreadableImageError(reason, "is too large") from error
        raise UnreadableImageError(f"image {name} cannot be read: {_NOT_AN_IMAGE}", "is damaged or no image") from error


def _too_large(name: object) -> UnreadableImageError:
    return UnreadableImageError(f"image {name} is too large for the memory of this machine", "is too large")


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableImageError(f"image {path} does not exist", "is missing") from error
    except IsADirectoryError as error:
        raise UnreadableImageError(f"image must be a file, got the folder {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImageError(f"image {path} cannot be read: {reason}") from error
    return data


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height from the header of a JPEG, PNG, BMP, WebP or TIFF file, or None."""
    if data.startswith(_JPEG):
        for mark, body in _jpeg_segments(data):
            if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC) and len(body) > 5:
                height, width = struct.unpack_from(">HH", body, 1)
                return width, height
    elif data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    elif data.startswith(b"BM") and len(data) >= 26:
        width, height = struct.unpack_from("<ii", data, 18)
        return abs(width), abs(height)
    elif data.startswith(b"RIFF") and data[8:16] == b"WEBPVP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    elif data.startswith(b"RIFF") and data[8:16] == b"WEBPVP8 " and data[23:26] == b"\x9d\x01\x2a" and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    elif data.startswith(b"RIFF") and data[8:16] == b"WEBPVP8L" and data[20:21] == b"\x2f" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif data.startswith(_TIFF):
        tags = _tags(data)
        width, height = (tags.get(tag, (0,))[0] for tag in (256, 257))
        return (width, height) if width and height else None
    return None


def decode(data: bytes) -> Image:
    """Decode the bytes of an image file to (H, W, 3) uint8 RGB; raise ValueError or cv2.error on failure."""
    size, most = declared_size(data), max_pixels()
    if size is not None and size[0] * size[1] > most:
        raise ValueError(f"it has {size[0]} x {size[1]} pixels; expected at most {most:,} in all (--max-pixels)")
    if data.startswith(_JPEG):
        return _decode_jpeg(data)
    if data.startswith(_PNG):
        return _decode_png(data)
    if data.startswith(_TIFF):
        return _decode_tiff(data)
    if data.startswith(_EXR):  # OpenCV may have been built without it, and it would read floats
        raise ValueError(f"its pixels are floating-point numbers (OpenEXR); {_ACCEPTED}")
    image = _as_8_bits(_decoded(data, cv2.IMREAD_UNCHANGED), _white(data))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _turned(image, _orientation(_webp_exif(data)))
    return _turned(image, _avif_orientation(data)) if data[4:8] == b"ftyp" else image


def _decoded(data: bytes, flags: int) -> NDArray[Any]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or pixels.size == 0:
        if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
            raise ValueError("it is a HEIC image, which is not read; save it as JPEG or PNG")
        raise ValueError(_NOT_AN_IMAGE)
    return pixels


def _as_8_bits(pixels: NDArray[Any], white: int | None = None, *, premultiplied: bool = False) -> Image:
    """Pixels as OpenCV decodes them, gray, BGR or BGRA, as RGB of 8 bits; ``white`` is their largest value."""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(_not_accepted(pixels.dtype.kind, 8 * pixels.dtype.itemsize))
    largest = int(np.iinfo(pixels.dtype).max)
    if white is not None or pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / (white or largest))
    if pixels.ndim == 2:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    if pixels.shape[2] == 4:
        return _on_mean(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), premultiplied=premultiplied)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _not_accepted(kind: str, bits: int) -> str:
    names = {"f": f"{bits}-bit floats", "c": "complex numbers", "i": f"signed {bits}-bit numbers"}
    return f"its pixels are {names.get(kind, f'{bits}-bit numbers')}; {_ACCEPTED}"


def _on_mean(rgba: NDArray[Any], *, premultiplied: bool = False) -> Image:
    """Composite (H, W, 4) uint8 on the data mean; ``premultiplied``: colors are multiplied by alpha already."""
    rgb: Image = np.ascontiguousarray(rgba[..., :3])
    if rgba[..., 3].min() < 255:
        alpha = rgba[..., 3:].astype(np.uint16)
        mean = np.array([round(255 * m) for m in MEAN], np.uint16)
        # At most 255 * 255 + 127, which fits 16 bits.
        front = np.minimum(rgb, alpha) * np.uint16(255) if premultiplied else rgb * alpha
        rgb = ((front + mean * (255 - alpha) + 127) // 255).astype(np.uint8)
    return rgb


def _turned(image: Image, orientation: int) -> Image:
    """The image as EXIF's orientation 1 to 8 says it is to be shown."""
    if orientation >= 5:  # stored on its side
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _orientation(exif: bytes) -> int:
    """EXIF's orientation, 1 (as stored) where there is none or it makes no sense."""
    found = _tags(exif.removeprefix(b"Exif\0\0")).get(0x112, (1,))[0]
    return found if 1 <= found <= 8 else 1


def _tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Whole numbers in the first directory of a TIFF file, or of an EXIF block, which has the same form."""
    if not data.startswith(_TIFF):
        return {}
    order = "<" if data.startswith(b"I") else ">"
    big = b"+" in data[:4]  # BigTIFF: 64-bit offsets and counts
    offset, count, entry = (f"{order}{form}" for form in (("Q", "Q", "HHQ") if big else ("I", "H", "HHI")))
    sizes = {1: "B", 3: "H", 4: "I", 16: "Q"}
    tags: dict[int, tuple[int, ...]] = {}
    try:
        at = struct.unpack_from(offset, data, 8 if big else 4)[0]
        entries = struct.unpack_from(count, data, at)[0]
        at += struct.calcsize(count)
        for _ in range(min(entries, 4096)):
            tag, kind, number = struct.unpack_from(entry, data, at)
            at += struct.calcsize(entry)
            if kind in sizes and 1 <= number <= 16:
                form = f"{order}{number}{sizes[kind]}"
                room = struct.calcsize(offset)
                place = at if struct.calcsize(form) <= room else struct.unpack_from(offset, data, at)[0]
                tags[tag] = struct.unpack_from(form, data, place)
            at += struct.calcsize(offset)
    except struct.error:
        pass  # cut short: what was read counts
    return tags


def _decode_jpeg(data: bytes) -> Image:
    exif, components, adobe = b"", 3, False
    for mark, body in _jpeg_segments(data):
        if mark == 0xE1 and body.startswith(b"Exif\0\0") and not exif:
            exif = body
        elif mark == 0xEE and body.startswith(b"Adobe"):
            adobe = True
        elif 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC) and len(body) > 5:
            components = body[5]
    if components == 4 and not adobe:
        # OpenCV reads inks as Adobe writes them, inverted; without Adobe's mark they are not.
        raise ValueError("it is a CMYK JPEG without Adobe's mark, whose colors are not certain; save it as RGB")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return _turned(_as_8_bits(_decoded(data, flags)), _orientation(exif))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marks and contents of the segments before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        mark = data[at + 1]
        if mark in (0xD9, 0xDA):
            return
        if mark == 0xFF or mark == 0x01 or 0xD0 <= mark <= 0xD8:  # fill byte, or a mark without a length
            at += 1 if mark == 0xFF else 2
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        yield mark, data[at + 4 : at + 2 + size]
        at += 2 + size


def _decode_png(data: bytes) -> Image:
    kept, header, transparent, exif = [_PNG], b"", b"", b""
    for kind, whole, body in _png_chunks(data):
        sound = zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")
        if kind in _PIXEL_CHUNKS:
            if not sound:
                raise ValueError(f"it is damaged: the checksum of its {kind.decode()} chunk is wrong")
            kept.append(whole)
            header, transparent = (body if kind == b"IHDR" else header), (body if kind == b"tRNS" else transparent)
        elif kind == b"eXIf" and sound and not exif:
            exif = body
    pixels = _decoded(b"".join(kept), cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 2 and len(transparent) == 2 and header[9:10] == b"\0":
        # A shade of gray that means transparent, which OpenCV ignores.
        depth = header[8]
        shade = int.from_bytes(transparent, "big") * (255 // (2**depth - 1) if depth < 8 else 1)
        alpha = np.where(pixels == shade, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
        pixels = np.dstack([pixels, pixels, pixels, alpha])
    return _turned(_as_8_bits(pixels), _orientation(exif))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Kind, whole chunk with length and checksum, and contents of a PNG file's chunks."""
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at:end], data[at + 8 : end - 4]
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end


def _decode_tiff(data: bytes) -> Image:
    """Decode the first page; libtiff applies its orientation."""
    tags = _tags(data)
    bits, samples, planes, colors, compression = (tags.get(tag, (1,))[0] for tag in (258, 277, 284, 262, 259))
    kind = {2: "i", 3: "f", 5: "c", 6: "c"}.get(tags.get(339, (1,))[0], "u")
    if kind != "u" or bits > 16:
        raise ValueError(_not_accepted(kind, bits))
    # OpenCV has the colors of every form right where it makes 8 bits of them itself. Pixels of more bits are exact as
    # they are stored, and alpha is lost otherwise; libtiff has multiplied colors of 8 bits by it.
    plain = samples == 1 if colors in (0, 1) else colors == 2 and samples in (3, 4) and planes == 1
    as_stored = (plain and bits > 8) or (colors == 2 and samples == 4 and bits == 8)
    try:
        pixels = _decoded(data, cv2.IMREAD_UNCHANGED if as_stored else cv2.IMREAD_COLOR)
    except ValueError as error:
        form = f"{bits} bits, {samples} samples, photometric interpretation {colors}, compression {compression}"
        raise ValueError(f"it is damaged, or a TIFF of a form that OpenCV does not read ({form})") from error
    if as_stored and colors == 0:  # white is 0
        pixels = np.iinfo(pixels.dtype).max - pixels
    return _as_8_bits(pixels, premultiplied=bits == 8 or tags.get(338, (0,))[0] != 2)


def _webp_exif(data: bytes) -> bytes:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return b""


def _white(data: bytes) -> int | None:
    """The largest value of a PGM or PPM file, where OpenCV leaves pixels as they are; None: that of their type."""
    if data.startswith(b"P7"):
        raise ValueError("it is a PAM image, whose order of colors differs between programs; save it as PNG")
    if data[:2] not in (b"P2", b"P3", b"P5", b"P6") or data[2:3] not in b" \t\r\n#":
        return None
    numbers = re.sub(rb"#[^\n]*", b"", data[2:4096]).split(maxsplit=3)[:3]
    if len(numbers) < 3 or not numbers[2].isdigit():
        return None
    white = int(numbers[2])
    scaled = white <= 255 and data[:2] in (b"P2", b"P3")  # OpenCV does it where numbers are written as text
    return None if scaled or not 0 < white < 65536 else white


def _avif_orientation(data: bytes) -> int:
    """EXIF's number for the turns and mirrors of an AVIF file's picture, which OpenCV leaves out."""
    meta = next((body[4:] for kind, body in _boxes(data) if kind == b"meta"), b"")
    parts = dict(_boxes(meta))
    properties = dict(_boxes(parts.get(b"iprp", b"")))
    kinds = list(_boxes(properties.get(b"ipco", b"")))
    orientation = 1
    for number in _property_numbers(properties.get(b"ipma", b""), parts.get(b"pitm", b"")):
        kind, body = kinds[number - 1] if 1 <= number <= len(kinds) else (b"", b"")
        if kind == b"irot" and body:
            for _ in range(body[0] & 3):  # a quarter, counterclockwise
                orientation = (0, 8, 5, 6, 7, 4, 1, 2, 3)[orientation]
        elif kind == b"imir" and body:
            mirrored = (0, 2, 1, 4, 3, 6, 5, 8, 7) if body[0] & 1 else (0, 4, 3, 2, 1, 8, 7, 6, 5)
            orientation = mirrored[orientation]
    return orientation


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kinds and contents of the boxes of an ISO media file, or of a box."""
    at = 0
    while at + 8 <= len(data):
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        size = size or len(data) - at
        if size < head:
            return
        yield kind, data[at + head : at + size]
        at += size


def _property_numbers(associations: bytes, primary: bytes) -> list[int]:
    """Numbers, from 1, of the properties of an ISO media file's primary item."""
    try:
        item = int.from_bytes(primary[4:], "big")
        long_ids, long_numbers = associations[0] > 0, bool(associations[3] & 1)
        count, at = int.from_bytes(associations[4:8], "big"), 8
        for _ in range(count):
            size = 4 if long_ids else 2
            found, number = int.from_bytes(associations[at : at + size], "big"), associations[at + size]
            at += size + 1
            width = 2 if long_numbers else 1
            ends = range(at, at + width * number, width)
            at += width * number
            if found == item:
                mask = 0x7FFF if long_numbers else 0x7F
                return [int.from_bytes(associations[end : end + width], "big") & mask for end in ends]
    except IndexError:
        pass  # cut short: no turns
    return []


def truncation(data: bytes) -> str | None:
    """Describe what is missing at the end of a JPEG, PNG or WebP file; None if complete.

    Decoders differ on truncated files: some versions of OpenCV return a partly gray image. Bytes after the end are
    allowed; cameras store videos and maps there.
    """
    if data.startswith(_JPEG):
        return None if _jpeg_ends(data) else "its end-of-image mark is missing"
    if data.startswith(_PNG):
        return None if _png_ends(data) else "its IEND chunk is missing"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        promised = 8 + struct.unpack("<I", data[4:8])[0]
        return None if len(data) >= promised else f"it has {len(data)} of {promised} bytes"
    return None


def _jpeg_ends(data: bytes) -> bool:
    # Segments are walked by their lengths: a thumbnail inside one has an end-of-image mark of its own.
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return True  # not as the standard has it: the decoder's business
        mark = data[at + 1]
        if mark == 0xD9:
            return True
        if mark == 0xFF or mark == 0x01 or 0xD0 <= mark <= 0xD8:  # fill byte, or a mark without a length
            at += 1 if mark == 0xFF else 2
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if mark == 0xDA:
            found = _AFTER_SCAN.search(data, at)
            if found is None:
                return False
            at = found.start(1) - 1
    return data[at : at + 2] == b"\xff\xd9"


def _png_ends(data: bytes) -> bool:
    return any(kind == b"IEND" for kind, _, _ in _png_chunks(data))


def image_size(path: Path) -> tuple[int, int] | None:
    """Return width and height of a JPEG or PNG file as read, from its header; None if unknown."""
    try:
        with path.open("rb") as file:
            data = file.read(1 << 16)
    except (OSError, ValueError):
        return None
    size, exif = None, b""
    if data.startswith(_JPEG):
        for mark, body in _jpeg_segments(data):
            if mark == 0xE1 and body.startswith(b"Exif\0\0") and not exif:
                exif = body
            elif 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC) and len(body) > 5:  # a frame header
                size = struct.unpack_from(">HH", body, 1)[::-1]
    elif data.startswith(_PNG) and len(data) >= 24:
        size = struct.unpack_from(">II", data, 16)
        exif = next((body for kind, _, body in _png_chunks(data) if kind == b"eXIf"), b"")
        if not exif and len(data) == 1 << 16:  # the orientation may follow after the pixels
            return None
    if size is None:
        return None
    return (size[1], size[0]) if _orientation(exif) >= 5 else (size[0], size[1])


def as_rgb(image: Any) -> Image:
    """Convert an array or tensor to (H, W, 3) uint8 RGB.

    Args:
        image: uint8; a NumPy array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, or a tensor (H, W) or
            (C, H, W) with C = 1, 3 or 4.

    Raises:
        TypeError: wrong type or dtype. ValueError: wrong shape, or no pixels.
    """
    if isinstance(image, torch.Tensor):
        expected = "a tensor (C, H, W) with C = 1, 3 or 4, or (H, W)"
        shape = tuple(image.shape)
        if image.dtype != torch.uint8:
            raise TypeError(f"image must be a tensor of torch.uint8, 0 to 255, got {image.dtype}")
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[0] in (1, 3, 4))
        pixels = image.detach().cpu().numpy()
        pixels = pixels.transpose(1, 2, 0) if image.ndim == 3 else pixels
    elif isinstance(image, np.ndarray):
        expected = "an array (H, W), (H, W, 3) in RGB order or (H, W, 4)"
        shape = image.shape
        if image.dtype != np.uint8:
            raise TypeError(f"image must be an array of uint8, 0 to 255, got {image.dtype}")
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
        pixels = image
    else:
        raise TypeError(
            f"image must be a path, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W), got {type(image).__name__}"
        )
    if not fits:
        raise ValueError(f"image must be {expected}, got shape {shape}")
    if 0 in shape:
        raise ValueError(f"image has shape {shape}; an image needs at least one pixel")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 4:
        return _on_mean(pixels)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def write_image(path: str | Path, rgb: Image, *, mark: str = "") -> None:
    """Write an (H, W, 3) uint8 RGB image atomically, in the format of the suffix.

    Args:
        path: output file.
        rgb: the image.
        mark: ASCII text to store in a PNG file, for ``read_mark``.

    Raises:
        UserError: unknown suffix, or a size that the format does not support.
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise UserError(f"image {path} cannot be written: its suffix must be one of {', '.join(WRITABLE)}")
    try:
        content = encode_image(rgb, suffix)
    except UserError as error:
        raise UserError(f"image {path}: {error}") from error
    if mark and suffix == ".png":
        body = _MARK + mark.encode("ascii")
        at = len(_PNG) + 25  # behind the header
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        content = content[:at] + chunk + content[at:]
    atomic_write(path, lambda file: file.write(content))


def encode_image(rgb: Image, suffix: str, *, quality: int | None = None) -> bytes:
    """Encode an (H, W, 3) uint8 RGB image.

    Args:
        rgb: the image.
        suffix: format, such as ``".jpg"``.
        quality: JPEG quality, 1 to 100; None: OpenCV's default.

    Raises:
        UserError: a size that the format does not support.
    """
    bgr = cv2.cvtColor(as_rgb(rgb), cv2.COLOR_RGB2BGR)
    settings = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    try:
        fine, encoded = cv2.imencode(suffix, bgr, settings)
    except cv2.error:
        fine = False
    if not fine:
        size = f"{bgr.shape[1]} x {bgr.shape[0]} pixels"
        raise UserError(f"{size} cannot be written as {suffix}; try .png")
    return bytes(encoded)


def read_mark(path: Path) -> str | None:
    """Return the mark of ``write_image`` in a PNG file, or None."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    if not head.startswith(_PNG):
        return None
    for _, whole, _ in _png_chunks(head):
        if whole[4:].startswith(_MARK):
            return whole[4 + len(_MARK) : -4].decode("ascii", "replace")
    return None
