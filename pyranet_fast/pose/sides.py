"""Left and right in joint names, as people write them: ``left_ear``, ``Ear L``, ``rightElbow``, ``knee-r``."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_OTHER = {"left": "right", "right": "left"}
# Words: at separators, and where a capital follows a small letter or begins a word after capitals (LElbow).
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")


def split_side(name: str) -> tuple[str, str]:
    """Return ``("left" | "right" | "centre", name without the side)``.

    A side is a whole word, ``left``, ``right``, ``l`` or ``r`` in any case, first or last in the name, or
    ``left``/``right`` glued to its beginning (``lefteye``). The rest is in small letters, words one space apart.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    for at in (0, -1):
        if len(words) > 1 and words[at] in _SIDES:
            side = _SIDES[words.pop(at)]
            return side, " ".join(words)
    if words and words[0] in ("left", "right"):
        return words[0], ""
    for side in ("left", "right"):
        if words and words[0].startswith(side):
            return side, " ".join([words[0].removeprefix(side), *words[1:]])
    return "centre", " ".join(words)


def pairs_by_name(joints: Sequence[str]) -> tuple[list[tuple[int, int]], list[str]]:
    """Pair joints whose names differ in their side alone.

    Besides sides as in ``split_side`` a glued first letter counts (``lsho``, ``rsho``), but only where both
    are there: ``lip`` has no side.

    Returns:
        Pairs of indices, in the joints' order, and the names that have a side and no partner.
    """
    places: dict[tuple[str, str], int] = {}
    lonely: list[str] = []
    for index, joint in enumerate(joints):
        side, rest = split_side(joint)
        if side == "centre":
            first, tail = joint[:1].lower(), joint[1:].lower()
            partner = {"l": "r", "r": "l"}.get(first, "")
            if partner and tail and any(other.lower() == partner + tail for other in joints):
                side, rest = _SIDES[first], f"*{tail}"
        if side == "centre":
            continue
        if (side, rest) in places:  # two names for the same: no telling which belongs to which
            lonely.append(joint)
        places.setdefault((side, rest), index)
    pairs = []
    for (side, rest), index in places.items():
        other = places.get((_OTHER[side], rest))
        if other is None:
            lonely.append(joints[index])
        elif index < other:
            pairs.append((index, other))
    return pairs, lonely
