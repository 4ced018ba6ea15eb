"""Datasets by the names used in commands."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from ..errors import DataWarning, UserError
from ..keypoints import MPII
from ..metrics import PCKH
from .coco import open_coco
from .dataset import LSP_TO_MPII, SPLITS, ConcatSource, MappedSource, PeopleSource
from .lsp import LSPExtendedSource, LSPSource
from .mpii import MPIISource
from .packed import PackedSource
from .synthetic import SyntheticSource

DATASETS = ("demo", "lsp", "lsp+lspet", "mpii", "mpii+lsp")
# People in a file of the user's own: coco:TRAIN.json or coco:TRAIN.json,VAL.json.
COCO = "coco:"
# People in a file that `python -m pyranet_fast.data.pack` wrote.
PACKED = "packed:"
# Parts of a mixture, each with how often an epoch visits its people: mpii*3+lsp*2+lspet.
_PARTS = re.compile(r"(?:mpii|lsp|lspet)(?:\*\d+)?(?:\+(?:mpii|lsp|lspet)(?:\*\d+)?)*")

# The demo's people are synthetic: any number, from a seed. Its network is small and trains for minutes, so
# they mostly stand or walk and face the camera.
_DEMO_VARIETY = 0.1
_DEMO_COUNT = {"train": 4096, "val": 512, "test": 512}


def open_dataset(
    name: str,
    root: str | Path | None,
    split: str,
    *,
    count: int | None = None,
    seed: int = 0,
    allow_outside: bool = False,
) -> PeopleSource:
    """Open one split of a dataset and issue its ``notes`` as ``DataWarning``.

    Args:
        name: one of these:

            - ``"demo"``: synthetic people, no files;
            - ``"lsp"``, ``"lsp+lspet"``: LSP trains on images 1-1000, with LSP-extended in the second form;
              ``"val"`` and ``"test"`` are LSP 1001 to the end;
            - ``"mpii"``: training and validation people; MPII's test labels are not public, so ``"test"`` is
              ``"val"``, unless there is a ``test.h5``, which then must hold labels;
            - ``"mpii+lsp"``: MPII's training people with those of ``"lsp+lspet"``, which get MPII's 16 joints;
              the other splits are MPII's;
            - ``"mpii*3+lsp*2+lspet"`` and the like, a mixture: the training people of each part, repeated that many
              times. If it includes ``mpii``, all have MPII's 16 joints and the other splits are MPII's; otherwise
              joints and other splits are LSP's;
            - ``"coco:TRAIN.json"``, ``"coco:TRAIN.json,VAL.json"``: your own data in COCO's keypoint format. Without
              a second file, a tenth of the images is ``"val"`` and ``"test"``;
            - ``"packed:FILE"``: people of any of these, written into one file by ``pyranet_fast.data.pack``.
        root: folder that contains ``lsp_dataset/``, ``lspet_dataset/``, ``mpii/``; for ``"coco:"`` the folder that
            paths are relative to (None: the current one); not used for ``"demo"`` and ``"packed:"``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        count: for ``"demo"``, the number of people; None is 4096 for training and 512 otherwise.
        seed: for ``"demo"``, the seed; splits of one seed share no people.
        allow_outside: images of ``"coco:"`` may lie outside ``root``, see `COCOSource`.

    Raises:
        UserError: unknown name or split, no root, or anything wrong with the files.
    """
    if name not in DATASETS and not name.startswith((COCO, PACKED)) and _mixture(name) is None:
        raise UserError(
            f"unknown dataset {name!r}; there are {', '.join(DATASETS)}, mixtures such as mpii*3+lsp*2+lspet, "
            f"{COCO}FILE.json and {PACKED}FILE"
        )
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if name == "demo":
        return SyntheticSource(_DEMO_COUNT[split] if count is None else count, seed, split=split, variety=_DEMO_VARIETY)
    if root is None and name.startswith((COCO, PACKED)):
        root = "."
    if root is None:
        folder = "mpii/" if "mpii" in name else "lsp_dataset/"
        raise UserError(f"dataset {name!r} needs a root: the folder that contains {folder}")
    people = _open_files(name, root, split, allow_outside)
    for note in people.notes:
        warnings.warn(note, DataWarning, stacklevel=1)  # a note on both splits is shown once
    return people


def _open_files(name: str, root: str | Path, split: str, allow_outside: bool) -> PeopleSource:
    if name.startswith(PACKED):
        return PackedSource(name.removeprefix(PACKED), split)
    if name.startswith(COCO):
        return open_coco(name.removeprefix(COCO), root, split, allow_outside=allow_outside)
    parts = _mixture({"mpii+lsp": "mpii+lsp+lspet"}.get(name, name))
    assert parts is not None
    with_mpii = "mpii" in parts
    if split != "train":
        return _open_mpii(root, split) if with_mpii else LSPSource(root, "1001-")
    people = []
    for part, times in parts.items():
        source = _open_part(part, root)
        if with_mpii and part != "mpii":
            source = MappedSource(source, MPII, LSP_TO_MPII, PCKH)
        people += [source] * times
    return people[0] if len(people) == 1 else ConcatSource(people)


def _mixture(name: str) -> dict[str, int] | None:
    """How often each part of a mixture counts, or None where it is no mixture, or names a part twice or never."""
    if _PARTS.fullmatch(name) is None:
        return None
    pairs = [part.partition("*") for part in name.split("+")]
    parts = {part: int(times or 1) for part, _, times in pairs}
    return parts if len(parts) == len(pairs) and all(1 <= times <= 1000 for times in parts.values()) else None


def _open_part(part: str, root: str | Path) -> PeopleSource:
    if part == "mpii":
        return _open_mpii(root, "train")
    return LSPSource(root, "1-1000") if part == "lsp" else LSPExtendedSource(root)


def _open_mpii(root: str | Path, split: str) -> PeopleSource:
    if split == "test" and not (Path(root) / "mpii" / "test.h5").is_file():
        split = "val"
    return MPIISource(root, split)
