"""MPII Human Pose (Andriluka et al. 2014), single person, from any of the forms in which its annotations are shared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..keypoints import MPII
from ..metrics import PCKH
from .annotations import AnnotatedSource, Annotations, is_held_out
from .dataset import folder_below
from .mpii_annotations import (
    HEAD_FACTOR,
    estimate_head_sizes,
    match_head_sizes,
    read_hdf5,
    read_head_boxes,
    read_json_list,
    read_matlab,
)

FORMS = ("json", "hdf5", "mat")
_JSON = ("mpii_annotations.json", "mpii_annotations.json.gz")
_HDF5 = {"train": "train.h5", "val": "valid.h5", "test": "test.h5"}
_MAT = ("mpii_human_pose_v1_u12_1.mat", "mpii_human_pose_v1_u12_2/mpii_human_pose_v1_u12_1.mat")
_HEADS = "detections_our_format.mat"


class MPIISource(AnnotatedSource):
    """People of MPII in ``root/mpii/``: ``images/`` and annotations in the first of these forms found.

    - ``"json"``: ``mpii_annotations.json`` or ``.json.gz``, the raw list with ``isValidation``;
    - ``"hdf5"``: ``train.h5``, ``valid.h5``, ``test.h5``, with center and scale already adjusted and joints
      rounded to pixels;
    - ``"mat"``: the official ``mpii_human_pose_v1_u12_1.mat``. Its validation images are those of ``valid.h5`` or
      the JSON list if present, otherwise a fixed tenth of the images, by a hash of their names.

    The crop is the published one: 15 scales below ``objpos``, 1.25 times as wide. A joint is labeled where
    x > 0; occluded joints are labeled like all others. ``reference_length`` is the head size, 0.6 times the
    diagonal of the head box: from ``detections_our_format.mat`` (validation), from ``normalize`` of the HDF5 file
    of the split, or from the boxes in the .mat. If none of these has it, it is 0.75 times the distance from upper
    neck to head top; the factor is a least squares fit on the validation people and exact within 1 % for 98 of 100.
    It is NaN where neither is available, and for empty head boxes.

    Attributes:
        form: ``"json"``, ``"hdf5"`` or ``"mat"``.
        left_out: number of people left out, by reason.
        estimated: number of people with an estimated head size, also given in ``name``.
    """

    skeleton = MPII
    metric = PCKH

    def __init__(self, root: str | Path, split: str, form: str | None = None) -> None:
        """Open ``split``, ``"train"``, ``"val"`` or ``"test"``; ``form`` asks for one form of annotations.

        Raises:
            UserError: missing folder or files, a file that cannot be read or holds something else, no person in
                the split, labels that are not public, or not a single one of the images.
        """
        if split not in _HDF5:
            raise UserError(f"unknown split {split!r} of MPII; there are {', '.join(_HDF5)}")
        if form is not None and form not in FORMS:
            raise UserError(f"unknown form {form!r} of MPII; there are {', '.join(FORMS)}")
        self.folder = folder_below(root, "mpii", "images")
        self.left_out: Counter[str] = Counter()
        self.form = form or self._find_form(split)
        self._annotations = self._read(split)
        title = f"mpii {split} ({self.form})"
        if not len(self._annotations):
            raise UserError(f"{title}: no people in this split of {self.folder}")
        if not self._annotations.labeled.any():
            raise UserError(
                f"{title}: no person in {self.folder} has a labeled joint; labels of MPII's test people are not "
                "public, the split 'val' has labels"
            )
        self.estimated, unknown = self._fill_head_sizes(split)
        self.name = f"mpii {split} ({self.form}{', head sizes estimated' if self.estimated else ''})"
        notes = [f"{count} people {reason} were left out" for reason, count in sorted(self.left_out.items())]
        if self.estimated:
            notes.append(
                f"head sizes of {self.estimated} people are estimated as {HEAD_FACTOR} of upper neck to head top"
            )
        if unknown:
            notes.append(f"{unknown} people have no head size and are not scored")
        self.notes = tuple(f"{title}: {note}" for note in notes)
        self._image_folder = self.folder / "images"
        self._there = self._list_images()

    def _find_form(self, split: str) -> str:
        if split != "test":
            if self._find_file(_JSON):
                return "json"
            if (self.folder / _HDF5[split]).is_file():
                return "hdf5"
            if self._find_file(_MAT):
                return "mat"
            wanted = f"{_JSON[0]}[.gz], {_HDF5[split]} or {_MAT[0]}"
            raise UserError(f"{self.folder} has no annotations of split {split!r}; expected {wanted}")
        if (self.folder / _HDF5["test"]).is_file():
            return "hdf5"
        raise UserError(f"{self.folder} has no test.h5; MPII's test labels are not public: use the split 'val'")

    def _find_file(self, names: tuple[str, ...]) -> Path | None:
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)

    def _read(self, split: str) -> Annotations:
        if self.form == "json":
            people, held_out = read_json_list(self._find_file(_JSON) or self.folder / _JSON[0])
            return people.select(held_out if split == "val" else ~held_out)
        if self.form == "hdf5":
            return read_hdf5(self.folder / _HDF5[split])
        people, self.left_out = read_matlab(self._find_file(_MAT) or self.folder / _MAT[0])
        names = self._validation_names()
        in_val = [is_held_out(name) if names is None else name in names for name in people.names]
        return people.select(np.array(in_val) == (split == "val"))

    def _validation_names(self) -> set[str] | None:
        """Return the names of the validation images from a file beside the .mat, if there is one."""
        valid, annotations = self.folder / _HDF5["val"], self._find_file(_JSON)
        if valid.is_file():
            return set(read_hdf5(valid).names)
        if annotations is not None:
            people, held_out = read_json_list(annotations)
            return set(people.select(held_out).names)
        return None

    def _fill_head_sizes(self, split: str) -> tuple[int, int]:
        """Set the head sizes that the form lacks; return how many are estimates and how many stay unknown."""
        people = self._annotations
        if self.form != "mat":
            sizes = None
            if split == "val" and (self.folder / _HEADS).is_file():
                sizes = read_head_boxes(self.folder / _HEADS, people)
            beside = self.folder / _HDF5[split]
            if sizes is None and self.form == "json" and beside.is_file():
                sizes = match_head_sizes(read_hdf5(beside), people)
            # A size that a file gives as zero stays unknown; sizes are estimated only where no file has any.
            if sizes is not None:
                people.lengths = sizes
        estimated = 0
        if self.form != "mat" and not np.isfinite(people.lengths).any():
            people.lengths = estimate_head_sizes(people.joints, people.labeled)
            estimated = int(np.isfinite(people.lengths).sum())
        return estimated, int(np.isnan(people.lengths).sum())

    def _list_images(self) -> set[str]:
        images = self._image_folder
        if not images.is_dir():
            raise UserError(f"{images} does not exist; it must hold MPII's images")
        found = {path.name for path in images.iterdir()}
        if not any(name in found for name in self._annotations.names):
            raise UserError(
                f"{images} holds none of the images of {self.name}; the first one is {self._annotations.names[0]}"
            )
        return found

    def available(self) -> list[int]:
        """Return the indices of the people whose image existed when the dataset was opened."""
        return [index for index, name in enumerate(self._annotations.names) if name in self._there]
