"""MATLAB files of version 5, checked before SciPy reads them.

SciPy's reader looks up types by the tags of the file without checking that they exist: one changed byte of an
uncompressed file crashes the process. So every tag, size and count is checked first, and SciPy reads only the checked
content.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
# Bytes of an element's items by its type's number.
_ITEMS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_TEXTS = {16: 1, 17: 2, 18: 4, 1: 1, 2: 1, 3: 2, 4: 2}
_CELL, _STRUCT, _OBJECT, _CHAR = 1, 2, 3, 4
_NUMBERS = range(6, 16)
_COMPLEX = 0x800
_MOST_BYTES = 1 << 31
"""Of a file and of what it unpacks to: MPII's official annotations unpack to 90 MB."""
_MOST_DEPTH = 32
_MOST_ARRAYS = 1 << 24


class _Damaged(ValueError):
    """What is wrong, for a sentence."""


class _Walk:
    """Checks elements of one file's bytes."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.arrays = 0

    def tag(self, data: memoryview, at: int, end: int) -> tuple[int, int, int, int]:
        """Type, first byte and last byte + 1 of the data, and where the next element starts."""
        if end - at < 8:
            raise _Damaged("a tag is cut off")
        first, size = struct.unpack_from(self.order + "II", data, at)
        if first >> 16:  # in four bytes
            kind, size = first & 0xFFFF, first >> 16
            if size > 4:
                raise _Damaged(f"a small element has {size} bytes")
            return kind, at + 4, at + 4 + size, at + 8
        if size > end - at - 8:
            raise _Damaged(f"an element has {size} bytes, but {end - at - 8} follow")
        stop = at + 8 + size
        return first, at + 8, stop, min(end, stop if first == _COMPRESSED else stop + -stop % 8)

    def part(self, data: memoryview, at: int, end: int, kinds: dict[int, int], what: str) -> tuple[int, int, int, int]:
        """The first and last byte + 1 of an element of one of some types, its items, and where the next one starts."""
        kind, start, stop, after = self.tag(data, at, end)
        if kind not in kinds:
            raise _Damaged(f"{what} has type {kind}")
        if (stop - start) % kinds[kind]:
            raise _Damaged(f"{what} has {stop - start} bytes of items of {kinds[kind]}")
        return start, stop, (stop - start) // kinds[kind], after

    def matrix(self, data: memoryview, start: int, end: int, depth: int = 0) -> bool:
        """Check an array's bytes; whether SciPy may read it: numbers, texts, and structures and cells of them."""
        self.arrays += 1
        if depth > _MOST_DEPTH or self.arrays > _MOST_ARRAYS:
            raise _Damaged("structures are nested too deeply or too many")
        if start == end:  # an empty cell
            return depth > 0
        at, _, count, after = self.part(data, start, end, {6: 4}, "flags")
        if count != 2:
            raise _Damaged(f"flags have {count} numbers")
        flags = struct.unpack_from(self.order + "I", data, at)[0]
        kind = flags & 0xFF
        if kind not in (_CELL, _STRUCT, _OBJECT, _CHAR, *_NUMBERS):
            return False  # sparse arrays, functions, MATLAB's own objects
        at, _, axes, after = self.part(data, after, end, {5: 4}, "dimensions")
        if not 2 <= axes <= 32:
            raise _Damaged(f"an array has {axes} dimensions")
        sizes = struct.unpack_from(f"{self.order}{axes}i", data, at)
        if min(sizes) < 0:
            raise _Damaged(f"an array has sizes {sizes}")
        count = math.prod(sizes)
        *_, after = self.part(data, after, end, {1: 1, 2: 1, 16: 1}, "a name")
        if kind in _NUMBERS:
            for _ in range(2 if flags & _COMPLEX else 1):
                _, _, items, after = self.part(data, after, end, _ITEMS, "numbers")
                if items != count:
                    raise _Damaged(f"an array of {count} numbers has {items}")
            return True
        if kind == _CHAR:
            _, _, items, _ = self.part(data, after, end, _TEXTS, "a text")
            if count > 4 * items + 4 or (items > count > 0 and items > 4 * count):
                raise _Damaged(f"a text of {count} characters has {items} items")
            return True
        return self._members(data, after, end, kind, count, depth)

    def _members(self, data: memoryview, after: int, end: int, kind: int, count: int, depth: int) -> bool:
        if kind == _OBJECT:
            *_, after = self.part(data, after, end, {1: 1, 2: 1, 16: 1}, "a class")
        if kind != _CELL:
            at, _, items, after = self.part(data, after, end, {5: 4}, "the length of names")
            length = struct.unpack_from(self.order + "i", data, at)[0] if items == 1 else 0
            start, stop, _, after = self.part(data, after, end, {1: 1, 2: 1}, "names of fields")
            if not 1 <= length <= 64 or (stop - start) % length:
                raise _Damaged(f"names of fields have {stop - start} bytes, {length} each")
            count *= (stop - start) // length
        if count > (end - after) // 8:
            raise _Damaged(f"{count} arrays are in {end - after} bytes")
        readable = True
        for _ in range(count):
            number, start, stop, after = self.tag(data, after, end)
            if number != _MATRIX:
                raise _Damaged(f"an array in a structure has type {number}")
            readable &= self.matrix(data, start, stop, depth + 1)
        return readable


def _checked(data: bytes) -> bytes:
    """A file of the arrays that are as they should be and that SciPy can read, unpacked."""
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise _Damaged("the header of version 5 is missing")
    order = "<" if data[126:128] == b"IM" else ">"
    walk, view, at, room = _Walk(order), memoryview(data), _HEADER, _MOST_BYTES
    kept = [data[:116] + bytes(8) + data[124:128]]  # without MATLAB's own objects, whose place the 8 bytes tell
    while at < len(data):
        kind, start, stop, at = walk.tag(view, at, len(data))
        content: memoryview = view[start:stop]
        if kind == _COMPRESSED:
            unpack = zlib.decompressobj()
            unpacked = unpack.decompress(content, room)
            if not unpack.eof:
                raise _Damaged("a packed array is cut short, or too large")
            whole = memoryview(unpacked)
            kind, start, stop, _ = walk.tag(whole, 0, len(whole))
            content = whole[start:stop]
        room -= len(content)
        if kind != _MATRIX:
            raise _Damaged(f"there is type {kind} where an array is expected")
        if len(content) and walk.matrix(content, 0, len(content)):
            padding = bytes(-len(content) % 8)
            kept.append(struct.pack(order + "II", _MATRIX, len(content) + len(padding)) + bytes(content) + padding)
    return b"".join(kept)


def load_matlab(path: str | Path, **options: Any) -> dict[str, Any]:
    """Run ``scipy.io.loadmat`` safely on an untrusted file.

    Sparse arrays, functions and MATLAB objects are omitted.

    Args:
        path: the file; version 5 or 4.
        options: options of ``scipy.io.loadmat``.

    Raises:
        UserError: the file does not exist or is not MATLAB 4 or 5; use ``h5py`` for version 7.3.
    """
    from scipy.io import loadmat

    try:
        size = Path(path).stat().st_size
        if size > _MOST_BYTES:
            raise _Damaged(f"it has {size} bytes; expected at most {_MOST_BYTES}")
        data = Path(path).read_bytes()
        if len(data) >= 4 and 0 in data[:4]:  # version 4, whose reader is plain Python
            content = data
        else:
            content = _checked(data)
        loaded: dict[str, Any] = loadmat(io.BytesIO(content), **options)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except Exception as error:  # SciPy raises many kinds
        reason = one_line(str(error))[:160] or type(error).__name__
        raise UserError(f"{path} cannot be read; it is truncated, damaged, or not a MATLAB file: {reason}") from error
    return loaded
