"""How files are changed: bytes, the values of JSON, and what stands behind checksums."""

from __future__ import annotations

import copy
import random
from typing import Any

_BYTES = (0, 1, 127, 128, 255)
_NUMBERS = (-1, 0, 1, 2, -(2**31), 2**31 - 1, 2**32, 2**63 - 1, 10**400, 1e308, -1e308, 0.5, float("nan"), float("inf"))
_VALUES: tuple[Any, ...] = (None, True, False, "", "x", "\ud800", [], {}, [[]], [None], {"": 0}, "9" * 5000)


def change_bytes(data: bytes, random: random.Random) -> bytes:
    """One to four changes of bytes, blocks and lengths."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if not changed:
            break
        # Headers are where sizes stand.
        reach = random.choice((len(changed), len(changed), min(len(changed), 512)))
        at = random.randrange(reach)
        kind = random.randrange(8)
        if kind == 0:
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            changed[at] = random.choice((*_BYTES, random.randrange(256)))
        elif kind == 2:
            size = random.choice((2, 4, 8))
            number = random.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, random.getrandbits(64)))
            order: Any = random.choice(("little", "big"))
            changed[at : at + size] = (number % 256**size).to_bytes(size, order)
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + random.randrange(1, 64)]
        elif kind == 5:
            changed[at:at] = random.randbytes(random.randrange(1, 64))
        elif kind == 6:
            changed[at : at + 16] = random.randbytes(16)
        else:
            other = random.randrange(len(changed))
            size = random.randrange(1, 256)
            changed[at : at + size] = changed[other : other + size]
    return bytes(changed)


def change_value(value: Any, random: random.Random) -> Any:
    """Something else in the place of a value of JSON."""
    kind = random.randrange(6)
    if kind == 0:
        return random.choice(_NUMBERS)
    if kind == 1 and isinstance(value, int | float) and not isinstance(value, bool):
        return random.choice(
            (value + 1, value - 1, -value, value * 1000, value + 0.5 if abs(value) < 2**53 else 0, str(value))
        )
    if kind == 2 and isinstance(value, list) and value:
        return random.choice((value[:-1], [*value, value[0]], value * 2, value[::-1], [value], value[0]))
    if kind == 3 and isinstance(value, dict):
        return list(value.values())
    if kind == 4:
        nested: Any = value
        for _ in range(random.choice((1, 3, 2000))):
            nested = [nested]
        return nested
    return copy.copy(random.choice(_VALUES))


def change_json(content: Any, random: random.Random) -> Any:
    """JSON with one or two of its values changed, left out, or under another key."""
    content = [copy.deepcopy(content)]
    for _ in range(random.choice((1, 1, 2))):
        holder: Any = content
        key: Any = 0
        while isinstance(holder[key], dict | list) and len(holder[key]) and random.random() < 0.85:
            holder = holder[key]
            key = random.choice(sorted(holder, key=str)) if isinstance(holder, dict) else random.randrange(len(holder))
        if isinstance(holder, dict) and random.random() < 0.2:
            value = holder.pop(key)
            if random.random() < 0.5:
                holder[f"{key}x"] = value
        else:
            holder[key] = change_value(holder[key], random)
    return content[0]
