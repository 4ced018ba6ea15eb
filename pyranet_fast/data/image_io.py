"""Reading and writing images: any file or array becomes (H, W, 3) uint8 RGB, or a sentence that says what is wrong.

OpenCV decodes. What it leaves open is decided here: transparency, truncated files, names in any script.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UnreadableImage, UserError
from ..io import atomic_write
from .dataset import Image
from .transforms import MEAN

WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# Formats that cannot be transparent need no second decoding.
_OPAQUE = (b"\xff\xd8", b"BM")
_NOT_AN_IMAGE = "it is not an image of a known format, or it is damaged"
_PNG = b"\x89PNG\r\n\x1a\n"
# Within a scan, 0xFF is followed by 0 (a stuffed byte) or by a restart mark; anything else ends the scan.
_AFTER_SCAN = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")


def read_image(path: str | Path) -> Image:
    """Read an image file.

    Gray becomes three equal channels, 16 bits become 8, an EXIF orientation is applied. Transparent pixels
    are filled with the mean of the training images, which the network sees as nothing at all and which also
    fills what lies outside an image. (The orientation tag is not applied to an image with
    transparency.)

    Args:
        path: a file of any format OpenCV reads: JPEG, PNG, WebP, BMP, TIFF, …; up to 2^30 pixels.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UnreadableImage: no such file, a folder, no permission, not an image, truncated, or too large.
    """
    path = Path(path)
    data = _read_bytes(path)
    fault = truncation(data)
    if fault is not None:
        raise UnreadableImage(f"image {path} is truncated: {fault}", "is truncated")
    try:
        return decode(data)
    except MemoryError as error:
        raise UnreadableImage(f"image {path} is too large for the memory of this machine", "is too large") from error
    except (cv2.error, ValueError) as error:
        reason = "it has more pixels than OpenCV reads (2^30)" if "PIXELS" in str(error) else _NOT_AN_IMAGE
        raise UnreadableImage(f"image {path} cannot be read: {reason}", "is damaged or no image") from error


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableImage(f"image {path} does not exist", "is missing") from error
    except IsADirectoryError as error:
        raise UnreadableImage(f"image {path} is a folder; a file is accepted") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImage(f"image {path} cannot be read: {reason}") from error
    if not data:
        raise UnreadableImage(f"image {path} is empty (0 bytes)", "is damaged or no image")
    return data


def decode(data: bytes) -> Image:
    """Decode the bytes of an image file to (H, W, 3) uint8 RGB; ValueError or cv2.error where that is not possible."""
    encoded = np.frombuffer(data, np.uint8)
    if not data.startswith(_OPAQUE):
        whole = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        if whole is not None and whole.ndim == 3 and whole.shape[2] == 4:
            if whole.dtype == np.uint16:
                whole = cv2.convertScaleAbs(whole, alpha=1 / 257)
            if whole.dtype == np.uint8:
                return _on_mean(cv2.cvtColor(whole, cv2.COLOR_BGRA2RGBA))
    color = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if color is None or color.size == 0:
        raise ValueError(_NOT_AN_IMAGE)
    return np.asarray(cv2.cvtColor(color, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _on_mean(rgba: NDArray[Any]) -> Image:
    """Composite (H, W, 4) uint8 on the data mean."""
    rgb: Image = np.ascontiguousarray(rgba[..., :3])
    if rgba[..., 3].min() < 255:
        alpha = rgba[..., 3:].astype(np.uint16)
        mean = np.array([round(255 * m) for m in MEAN], np.uint16)
        # At most 255 * 255 + 127, which fits 16 bits.
        rgb = ((rgb * alpha + mean * (255 - alpha) + 127) // 255).astype(np.uint8)
    return rgb


def truncation(data: bytes) -> str | None:
    """What is missing at the end of a JPEG, PNG or WebP file, or None where nothing is.

    Decoders differ in what they do with half a file: some versions of OpenCV return a partly gray picture.
    Bytes after the end are allowed; cameras put films and maps there.
    """
    if data.startswith(b"\xff\xd8"):
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
    at = len(_PNG)
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a JPEG or PNG file as it is read, from its header alone; None where that does not tell."""
    try:
        with path.open("rb") as file:
            data = file.read(1 << 16)
    except (OSError, ValueError):
        return None
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return int(width), int(height)
    return _jpeg_size(data) if data.startswith(b"\xff\xd8") else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at, turned = 2, False
    while at + 9 <= len(data) and data[at] == 0xFF:
        mark = data[at + 1]
        if mark == 0xFF:
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if mark == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            turned = exif_orientation(data[at + 10 : at + 2 + length]) >= 5
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return (height, width) if turned else (width, height)
        at += 2 + length
    return None


def exif_orientation(data: bytes) -> int:
    """The orientation in EXIF data that begin with their TIFF header, 1 to 8; 1 where there is none. From 5 on width
    and height change places."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return 1
    at = struct.unpack(order + "I", data[4:8])[0]
    count = struct.unpack(order + "H", data[at : at + 2])[0] if at + 2 <= len(data) else 0
    for entry in range(at + 2, min(at + 2 + 12 * count, len(data) - 11), 12):
        if struct.unpack(order + "H", data[entry : entry + 2])[0] == 0x0112:
            value = struct.unpack(order + "H", data[entry + 8 : entry + 10])[0]
            return int(value) if 1 <= value <= 8 else 1
    return 1


def as_rgb(image: Any) -> Image:
    """An array or tensor as (H, W, 3) uint8 RGB.

    Args:
        image: uint8; a NumPy array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, or a tensor (H, W) or
            (C, H, W) with C = 1, 3 or 4.

    Raises:
        TypeError: another type or dtype. ValueError: another shape, or no pixels.
    """
    if isinstance(image, torch.Tensor):
        accepted = "a tensor (C, H, W) with C = 1, 3 or 4, or (H, W)"
        shape = tuple(image.shape)
        if image.dtype != torch.uint8:
            raise TypeError(f"image is a tensor of {image.dtype}; torch.uint8, 0 to 255, is accepted")
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[0] in (1, 3, 4))
        pixels = image.detach().cpu().numpy()
        pixels = pixels.transpose(1, 2, 0) if image.ndim == 3 else pixels
    elif isinstance(image, np.ndarray):
        accepted = "an array (H, W), (H, W, 3) in RGB order or (H, W, 4)"
        shape = image.shape
        if image.dtype != np.uint8:
            raise TypeError(f"image is an array of {image.dtype}; uint8, 0 to 255, is accepted")
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
        pixels = image
    else:
        raise TypeError(
            f"image is a {type(image).__name__}; "
            "a path, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W) is accepted"
        )
    if not fits:
        raise ValueError(f"image has shape {shape}; {accepted} is accepted")
    if 0 in shape:
        raise ValueError(f"image has shape {shape}; an image needs at least one pixel")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 4:
        return _on_mean(pixels)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def write_image(path: str | Path, rgb: Image) -> None:
    """Write an (H, W, 3) uint8 RGB image whole or not at all; the suffix chooses the format.

    Raises:
        UserError: a suffix that is not of an image format, or a size that the format cannot hold.
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise UserError(f"image {path} cannot be written: its suffix must be one of {', '.join(WRITABLE)}")
    bgr = cv2.cvtColor(as_rgb(rgb), cv2.COLOR_RGB2BGR)
    try:
        fine, encoded = cv2.imencode(suffix, bgr)
    except cv2.error:
        fine = False
    if not fine:
        size = f"{bgr.shape[1]} x {bgr.shape[0]} pixels"
        raise UserError(f"image {path} of {size} cannot be written as {suffix}; try .png")
    atomic_write(path, lambda file: file.write(encoded.tobytes()))
