"""People left out of a run: counted by reason, in people and images, and reported in one sentence."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from ..errors import DataWarning, UnreadableImageError, UserError
from .dataset import PeopleSource, Subset


@dataclass
class _Reason:
    people: int = 0
    pictures: set[str] = field(default_factory=set)
    first: str = ""


class LeftOut:
    """People left out, by reason.

    Example::

        left_out = LeftOut()
        left_out.add("whose picture is missing", "im1.jpg", first="im1.jpg")
        left_out.sentence(24)  # "1 of 24 people, in 1 picture, is left out: 1 whose picture is missing (im1.jpg)"
    """

    def __init__(self) -> None:
        self._reasons: dict[str, _Reason] = {}

    def add(self, reason: str, picture: str, *, first: str = "") -> None:
        """Count a person.

        Args:
            reason: relative clause after "3 people", such as ``"whose picture is missing"``.
            picture: name of the image.
            first: description of the person, used for the first one of each reason.
        """
        entry = self._reasons.setdefault(reason, _Reason(first=first))
        entry.people += 1
        entry.pictures.add(picture)

    def add_unreadable(self, error: UserError, picture: str) -> None:
        """Count a person whose image raised ``error``."""
        self.add(unreadable_reason(error), picture, first=picture)

    def __len__(self) -> int:
        """Return the number of people."""
        return sum(entry.people for entry in self._reasons.values())

    @property
    def pictures(self) -> int:
        """Number of different images."""
        return len(set().union(*(entry.pictures for entry in self._reasons.values())))

    def counts(self) -> dict[str, int]:
        """Number of people by reason, in descending order."""
        ordered = sorted(self._reasons.items(), key=lambda item: -item[1].people)
        return {reason: entry.people for reason, entry in ordered}

    def reasons(self) -> str:
        """Return the reasons with counts and their first person."""
        parts = []
        for reason, count in self.counts().items():
            first = self._reasons[reason].first
            more = "first: " if count > 1 else ""
            parts.append(f"{count} {reason}" + (f" ({more}{first})" if first else ""))
        return "; ".join(parts)

    def sentence(self, total: int) -> str:
        """Return one sentence on how many of ``total`` people, in how many images, are left out, and why."""
        pictures = f"{self.pictures} picture{'s' if self.pictures != 1 else ''}"
        verb = "is" if len(self) == 1 else "are"
        return f"{len(self)} of {total} people, in {pictures}, {verb} left out: {self.reasons()}"


def unreadable_reason(error: UserError) -> str:
    """Return why a person is left out whose image raised ``error``."""
    return f"whose picture {error.reason if isinstance(error, UnreadableImageError) else 'cannot be read'}"


def missing_images(source: PeopleSource) -> LeftOut:
    """Return the people of a dataset whose image is missing."""
    there = set(source.available())
    left_out = LeftOut()
    for index in range(len(source)):
        if index not in there:
            name = source.image_name(index)
            left_out.add("whose picture is missing", name, first=name)
    return left_out


def with_images(source: PeopleSource) -> PeopleSource:
    """Return the people of a dataset whose image exists.

    Issues a ``DataWarning`` for those left out; raises UserError if none remain.
    """
    indices = source.available()
    if len(indices) == len(source):
        return source
    missing = missing_images(source)
    if not indices:
        raise UserError(f"{source.name}: no image of the {len(source)} people exists: {missing.reasons()}")
    warnings.warn(f"{source.name}: {missing.sentence(len(source))}", DataWarning, stacklevel=2)
    return Subset(source, indices)
