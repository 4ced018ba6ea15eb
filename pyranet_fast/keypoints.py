"""Skeletons: joint names, flip pairs and bones; left and right as people write them in joint names.

Joints of a skeleton are numbered from 0 in the order of the dataset. Left and right are the person's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import UserError


@dataclass(frozen=True)
class Skeleton:
    """K joints: what each is called, which mirror each other, which to connect. A network has a score map for each.

    Attributes:
        name: short name; of the built-in ones a key of ``SKELETONS``.
        joints: K joint names in the dataset's order.
        flip_pairs: index pairs that change places in a mirrored picture.
        bones: index pairs to connect when a pose is drawn.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    bones: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Check that every index names a joint and that no joint is mirrored twice."""
        used = [index for pair in self.flip_pairs + self.bones for index in pair]
        if any(not 0 <= index < len(self.joints) for index in used):
            raise ValueError(
                f"skeleton {self.name!r} has {len(self.joints)} joints, but its pairs name joint "
                f"{max(used, key=abs)}; indices must lie in 0..{len(self.joints) - 1}"
            )
        mirrored = [index for pair in self.flip_pairs for index in pair]
        if len(set(mirrored)) != len(mirrored):
            raise ValueError(f"skeleton {self.name!r}: a joint appears in two flip_pairs, each may appear once")
        if len(set(self.joints)) != len(self.joints):
            twice = next(joint for joint in self.joints if self.joints.count(joint) > 1)
            raise ValueError(f"skeleton {self.name!r}: two joints are called {twice!r}, each needs a name of its own")

    def __len__(self) -> int:
        """Return the number of joints."""
        return len(self.joints)

    @property
    def flip_permutation(self) -> list[int]:
        """Joint order after mirroring: ``mirrored[k] = original[flip_permutation[k]]``."""
        order = list(range(len(self.joints)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return order

    def index(self, joint: str) -> int:
        """Return the index of a joint name; ValueError lists the names there are."""
        if joint not in self.joints:
            raise ValueError(f"skeleton {self.name!r} has no joint {joint!r}; it has {', '.join(self.joints)}")
        return self.joints.index(joint)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON and a checkpoint can hold; ``from_dict`` leads back."""
        return {
            "name": self.name,
            "joints": list(self.joints),
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "bones": [list(pair) for pair in self.bones],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Skeleton:
        """Build the skeleton of ``as_dict``.

        Raises:
            UserError: a field is missing, unknown or of another type, or an index names no joint.
        """
        fields = ("name", "joints", "flip_pairs", "bones")
        if set(value) != set(fields):
            given = ", ".join(map(str, value)) or "(none)"
            raise UserError(f"a skeleton has the fields {given}; {', '.join(fields)} are accepted")
        name, joints = value["name"], value["joints"]
        if not isinstance(name, str):
            raise UserError(f"a skeleton's name is {name!r}; a text is accepted")
        if not isinstance(joints, list | tuple) or not joints or not all(isinstance(j, str) and j for j in joints):
            raise UserError(f"skeleton {name!r}: joints is {joints!r}; a list of names is accepted")
        try:
            return cls(name, tuple(joints), _pairs(name, "flip_pairs", value), _pairs(name, "bones", value))
        except ValueError as error:
            raise UserError(str(error)) from error

    def as_value(self) -> str | dict[str, Any]:
        """Return what a checkpoint keeps: the name of a built-in skeleton, the whole of any other."""
        return self.name if SKELETONS.get(self.name) == self else self.as_dict()


MPII = Skeleton(
    name="mpii",
    joints=(
        "right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle",
        "pelvis", "thorax", "upper neck", "head top",
        "right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    bones=(
        (0, 1), (1, 2), (2, 6), (3, 6), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9),
        (10, 11), (11, 12), (12, 7), (13, 7), (13, 14), (14, 15),
    ),
)  # fmt: skip

LSP = Skeleton(
    name="lsp",
    joints=(
        "right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle",
        "right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist",
        "neck", "head top",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    bones=(
        (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 12), (9, 12),
        (9, 10), (10, 11), (2, 8), (3, 9), (12, 13),
    ),
)  # fmt: skip

SKELETONS: Mapping[str, Skeleton] = {"mpii": MPII, "lsp": LSP}


def resolve_skeleton(value: Any) -> Skeleton:
    """Return the skeleton that a checkpoint names or holds.

    Args:
        value: a key of ``SKELETONS``, a dictionary of ``Skeleton.as_dict``, or a Skeleton.

    Raises:
        UserError: an unknown name, or a value of another kind.
    """
    if isinstance(value, Skeleton):
        return value
    if isinstance(value, Mapping):
        return Skeleton.from_dict(value)
    if isinstance(value, str) and value in SKELETONS:
        return SKELETONS[value]
    raise UserError(
        f"skeleton {value!r} is not known; {', '.join(SKELETONS)} or a dictionary of Skeleton.as_dict is accepted"
    )


def _pairs(name: str, field: str, value: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    pairs = value[field]
    fits = isinstance(pairs, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(type(index) is int for index in pair)
        for pair in pairs
    )
    if not fits:
        raise UserError(f"skeleton {name!r}: {field} is {pairs!r}; a list of pairs of joint indices is accepted")
    return tuple((first, second) for first, second in pairs)


# Left and right in joint names, as people write them: ``left_ear``, ``Ear L``, ``rightElbow``, ``knee-r``.

_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_OTHER = {"left": "right", "right": "left"}
# Words: at separators, and where a capital follows a small letter or begins a word after capitals (LElbow).
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")


def split_side(name: str) -> tuple[str, str]:
    """Return ``("left" | "right" | "center", name without the side)``.

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
    return "center", " ".join(words)


def side_of(name: str) -> str:
    """``"left"``, ``"right"`` or ``"center"`` from a joint's name."""
    return split_side(name)[0]


def flip_pairs_from_names(joints: Sequence[str]) -> tuple[list[tuple[int, int]], list[str]]:
    """Pair joints whose names differ in their side alone.

    Besides sides as in ``split_side`` a glued first letter counts (``lsho``, ``rsho``), but only where both
    are there: ``lip`` has no side.

    Returns:
        Pairs of indices, in the joints' order, and the names that have a side and no partner.
    """
    places: dict[tuple[str, str], int] = {}
    unpaired: list[str] = []
    for index, joint in enumerate(joints):
        side, rest = split_side(joint)
        if side == "center":
            first, tail = joint[:1].lower(), joint[1:].lower()
            partner = {"l": "r", "r": "l"}.get(first, "")
            if partner and tail and any(other.lower() == partner + tail for other in joints):
                side, rest = _SIDES[first], f"*{tail}"
        if side == "center":
            continue
        if (side, rest) in places:  # two names for the same: no telling which belongs to which
            unpaired.append(joint)
        places.setdefault((side, rest), index)
    pairs = []
    for (side, rest), index in places.items():
        other = places.get((_OTHER[side], rest))
        if other is None:
            unpaired.append(joints[index])
        elif index < other:
            pairs.append((index, other))
    return pairs, unpaired
