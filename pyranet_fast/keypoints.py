"""Skeletons: joint names, flip pairs and bones; left and right from joint names.

Joints of a skeleton are numbered from 0 in the order of the dataset. Left and right are the person's own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple

from .errors import UserError


@dataclass(frozen=True)
class Skeleton:
    """K joints: names, flip pairs and bones. A network has one score map per joint.

    Attributes:
        name: short name; for built-in skeletons a key of ``SKELETONS``.
        joints: K joint names in the dataset's order.
        flip_pairs: index pairs that swap in a mirrored image.
        bones: index pairs to connect in drawings.
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

    @cached_property
    def sides(self) -> tuple[str, ...]:
        """``"left"``, ``"right"`` or ``"center"`` for each joint.

        Of a flip pair one joint is left and the other right, by their names (``sides_of``); if these are ambiguous, the
        first is left. Any other joint takes its side from the word ``left`` or ``right`` in its name, else it is in
        the center: a single letter L or R does not count.
        """
        named = [joint.side for joint in sides_of(self.joints)]
        sides = [side if _strong_marks(joint) else "center" for joint, side in zip(self.joints, named, strict=True)]
        for first, second in self.flip_pairs:
            says = _OTHER.get(named[second]) if named[first] == "center" else named[first]
            if named[first] == named[second]:
                says = _side_by_letters(self.joints[first], self.joints[second])
            sides[first] = says or "left"
            sides[second] = _OTHER[sides[first]]
        return tuple(sides)

    @property
    def mirroring(self) -> str:
        """Flip pairs and unpaired joints as text, for inspection."""
        pairs = ", ".join(f"{self.joints[first]}/{self.joints[second]}" for first, second in self.flip_pairs)
        order = self.flip_permutation
        alone = ", ".join(joint for index, joint in enumerate(self.joints) if order[index] == index)
        return f"mirror pairs: {pairs or 'none'}" + (f"; on their own: {alone}" if alone else "")

    def index(self, joint: str) -> int:
        """Return the index of a joint name; ValueError lists the valid names."""
        if joint not in self.joints:
            raise ValueError(f"skeleton {self.name!r} has no joint {joint!r}; it has {', '.join(self.joints)}")
        return self.joints.index(joint)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and checkpoints; ``from_dict`` is the inverse."""
        return {
            "name": self.name,
            "joints": list(self.joints),
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "bones": [list(pair) for pair in self.bones],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Skeleton:
        """Build a skeleton from ``as_dict``.

        Raises:
            UserError: a field is missing, unknown or of the wrong type, or an index is out of range.
        """
        fields = ("name", "joints", "flip_pairs", "bones")
        if set(value) != set(fields):
            given = ", ".join(map(str, value)) or "(none)"
            raise UserError(f"a skeleton must have the fields {', '.join(fields)}, got {given}")
        name, joints = value["name"], value["joints"]
        if not isinstance(name, str):
            raise UserError(f"a skeleton's name must be a string, got {name!r}")
        if not isinstance(joints, list | tuple) or not joints or not all(isinstance(j, str) and j for j in joints):
            raise UserError(f"skeleton {name!r}: joints must be a list of names, got {joints!r}")
        try:
            return cls(name, tuple(joints), _pairs(name, "flip_pairs", value), _pairs(name, "bones", value))
        except ValueError as error:
            raise UserError(str(error)) from error

    def as_value(self) -> str | dict[str, Any]:
        """Return the value stored in checkpoints: the name of a built-in skeleton, else ``as_dict``."""
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
    """Return the skeleton of a name or a dictionary.

    Args:
        value: a key of ``SKELETONS``, a dictionary of ``Skeleton.as_dict``, or a Skeleton.

    Raises:
        UserError: an unknown name, or a value of another type.
    """
    if isinstance(value, Skeleton):
        return value
    if isinstance(value, Mapping):
        return Skeleton.from_dict(value)
    if isinstance(value, str) and value in SKELETONS:
        return SKELETONS[value]
    raise UserError(
        f"skeleton {value!r} is not known; expected {', '.join(SKELETONS)} or a dictionary of Skeleton.as_dict"
    )


def _pairs(name: str, field: str, value: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    pairs = value[field]
    fits = isinstance(pairs, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(type(index) is int for index in pair)
        for pair in pairs
    )
    if not fits:
        raise UserError(f"skeleton {name!r}: {field} must be a list of pairs of joint indices, got {pairs!r}")
    return tuple((first, second) for first, second in pairs)


# Left and right in joint names, as people write them: ``left_ear``, ``forelegL1``, ``LElbow``, ``hand-r-2``, ``lsho``.

_OTHER = {"left": "right", "right": "left"}
_LETTERS = {"l": "left", "r": "right", "lt": "left", "rt": "right"}
# Words: at separators and digits, and where a capital follows a small letter or begins a word after capitals (LElbow).
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")
_INSIDE = re.compile("left|right", re.IGNORECASE | re.ASCII)
# Words that end in left or right and mean no side have one or two letters before it: cleft, bright, upright.
_LEAST_BEFORE = 3
# Front, back, fore, hind, middle: a letter L or R may follow (frpaw).
_ENDS = "fbhm"

_Mark = tuple[int, int, str]
"""A part of a name that says a side: its first place, the place after it, "left" or "right"."""


class JointSide(NamedTuple):
    """Where a joint is, as its name and the names beside it say.

    Attributes:
        side: ``"left"``, ``"right"`` or ``"center"``.
        bare: the name without the side: words in small letters, one space apart. Partners share it.
        partner: index of the joint on the other side, or None where there is none, or none for certain.
    """

    side: str
    bare: str
    partner: int | None = None


def sides_of(joints: Sequence[str]) -> list[JointSide]:
    """Find left and right in joint names, all of them together.

    A word ``left`` or ``right`` is a side wherever it stands, in any case, and glued to another word too
    (``front_left_paw``, ``Shoulder_Left``, ``lefteye``, ``eyeleft``). A letter L or R, as a word of its own
    (``L_Eye``, ``LFoot``, ``wingL``, ``forelegR1``, ``hand-r-2``) or glued to the beginning or the end of a word
    (``lsho``, ``LASI``, ``FL_paw``, ``hipr``), is one only where the same name with the other letter is there too:
    ``lip``, ``heel``, ``Tail`` and the vertebrae ``L1`` to ``L5`` have no side.

    Of several possible partners the one that is spelled the same way is taken: same case and separators, then the
    side in the same place, then any place (``left_ear``, ``ear-right``). Where more than one is left, none is taken.

    Args:
        joints: names of a skeleton, in its order.

    Returns:
        One for each joint. Those with a side and without a partner are a matter for the user.
    """
    found: dict[int, JointSide] = {}
    strong = _read(joints, lambda name: [marks] if (marks := _strong_marks(name)) else [])
    letters, glued = _read(joints, _letter_words), _read(joints, _glued_letters)
    mixed = {i: letters.get(i, []) + [o for o in glued.get(i, []) if o.capital] for i in letters.keys() | glued.keys()}
    for readings, keys in (
        (strong, ("exact", "placed", "bare")),
        (letters, ("exact", "placed", "bare")),
        (_read(joints, _words_inside), ("exact", "placed", "bare")),
        (glued, ("exact", "placed")),
        (mixed, ("placed",)),  # LFoot and Rfoot
    ):
        undecided = {index: options for index, options in readings.items() if index not in found}
        for key in keys:
            _match(undecided, attrgetter(key), found)
        if readings is strong:
            found |= {i: JointSide(o.side, o.bare) for i, (o,) in strong.items() if i not in found}
        elif readings is not mixed:
            _name_surplus(readings, attrgetter(keys[-1]), found)
    return [found.get(i, JointSide("center", " ".join(_words(joint)))) for i, joint in enumerate(joints)]


def flip_pairs_from_names(joints: Sequence[str]) -> tuple[list[tuple[int, int]], list[str]]:
    """Pair joints whose names differ in their side alone, see ``sides_of``.

    Returns:
        Pairs of indices in the joints' order, and the names that have a side and no partner, or more than one.
    """
    sides = sides_of(joints)
    pairs = [(i, joint.partner) for i, joint in enumerate(sides) if joint.partner is not None and i < joint.partner]
    unpaired = [joints[i] for i, joint in enumerate(sides) if joint.side in _OTHER and joint.partner is None]
    return pairs, unpaired


def split_side(name: str, joints: Sequence[str] = ()) -> tuple[str, str]:
    """``("left" | "right" | "center", name without the side)`` of a joint among ``joints``, see ``sides_of``."""
    found = sides_of(list(dict.fromkeys((name, *joints))))[0]
    return found.side, found.bare


def side_of(name: str, joints: Sequence[str] = ()) -> str:
    """``"left"``, ``"right"`` or ``"center"`` of a joint among ``joints``, see ``sides_of``."""
    return split_side(name, joints)[0]


class _Reading(NamedTuple):
    """One way to read a side in a name; what partners share, from strict to loose."""

    side: str
    capital: bool
    exact: str
    placed: str
    bare: str


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _read(joints: Sequence[str], find: Callable[[str], list[list[_Mark]]]) -> dict[int, list[_Reading]]:
    """The readings of each name in which ``find`` finds marks."""
    found = {index: [_reading(name, marks) for marks in find(name)] for index, name in enumerate(joints)}
    return {index: readings for index, readings in found.items() if readings}


def _reading(name: str, marks: list[_Mark]) -> _Reading:
    """Read a name by its marks. Marks after the first are written as in the left one of the pair, so that
    ``left_eye_right_corner`` and ``right_eye_left_corner`` are partners."""
    side = marks[0][2]
    exact, words, at = "", [], 0
    for number, (start, end, says) in enumerate(marks):
        mark = name[start:end]
        case = "lower" if mark.islower() else "upper" if mark.isupper() else "title"
        word = "*" if number == 0 else says if side == "left" else _OTHER[says]
        exact += f"{name[at:start]}\0{case} {word}\0"
        words += [*_words(name[at:start]), word]
        at = end
    words += _words(name[at:])
    bare = " ".join(word for word in words if word != "*")
    return _Reading(side, name[marks[0][0]].isupper(), exact + name[at:], " ".join(words), bare)


def _strong_marks(name: str) -> list[_Mark]:
    """Every left and right that is a word, or the beginning or end of one."""
    marks: list[_Mark] = []
    for match in _WORD.finditer(name):
        word, (start, end) = match[0].lower(), match.span()
        for side in _OTHER:
            if word.startswith(side):
                marks.append((start, start + len(side), side))
                break
            if word.endswith(side) and len(word) >= len(side) + _LEAST_BEFORE:
                marks.append((end - len(side), end, side))
                break
    return marks


def _letter_words(name: str) -> list[list[_Mark]]:
    """Each word that is L or R."""
    words = ((*match.span(), match[0].lower()) for match in _WORD.finditer(name))
    return [[(start, end, _LETTERS[word])] for start, end, word in words if word in _LETTERS]


def _words_inside(name: str) -> list[list[_Mark]]:
    """Each left and right within a word."""
    return [[(*match.span(), match[0].lower())] for match in _INSIDE.finditer(name)]


def _glued_letters(name: str) -> list[list[_Mark]]:
    """Each L and R at the beginning or end of a longer word, or after the letter of its end."""
    places: set[int] = set()
    for match in _WORD.finditer(name):
        start, end = match.span()
        if end - start > 1:
            places |= {start, end - 1} | ({start + 1} if name[start].lower() in _ENDS else set())
    return [[(at, at + 1, _LETTERS[name[at].lower()])] for at in sorted(places) if name[at].lower() in ("l", "r")]


def _match(readings: Mapping[int, list[_Reading]], key: Callable[[_Reading], str], found: dict[int, JointSide]) -> None:
    """Pair the joints that are each other's only partner by ``key``; those with several get a side and no partner."""
    holders: dict[tuple[str, str], set[int]] = defaultdict(set)
    undecided = {index: options for index, options in readings.items() if index not in found}
    for index, options in undecided.items():
        for option in options:
            holders[option.side, key(option)].add(index)
    partners: dict[int, dict[int, _Reading]] = {}
    for index, options in undecided.items():
        met = {other: o for o in options for other in holders.get((_OTHER[o.side], key(o)), ()) if other != index}
        if met:
            partners[index] = met
    for index, met in partners.items():
        other, option = next(iter(met.items()))
        certain = len(met) == 1 and len(partners[other]) == 1
        found[index] = JointSide(option.side, option.bare, other if certain else None)


def _name_surplus(
    readings: Mapping[int, list[_Reading]], key: Callable[[_Reading], str], found: dict[int, JointSide]
) -> None:
    """Give a side and no partner to joints that could be another's partner, had it not a better one."""
    held = {(option.side, key(option)) for options in readings.values() for option in options}
    for index, options in readings.items():
        for option in options:
            if index not in found and (_OTHER[option.side], key(option)) in held:
                found[index] = JointSide(option.side, option.bare)


def _side_by_letters(first: str, second: str) -> str | None:
    """The side of the first of a given pair whose names are no twins, where a word L or R says one (l_fin, r_wing)."""
    said = [{marks[0][2] for marks in _letter_words(name)} for name in (first, second)]
    if said in ([{"left"}, {"right"}], [{"right"}, {"left"}]):
        return said[0].pop()
    return None
