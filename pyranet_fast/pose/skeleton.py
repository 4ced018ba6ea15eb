"""Joint names, mirror pairs and bones of the supported skeletons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Skeleton:
    """The meaning of the K score maps.

    Attributes:
        name: short name, a key of ``SKELETONS``.
        joints: K joint names in the data set's order.
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
