"""Data sets by the names that commands take."""

from __future__ import annotations

from pathlib import Path

from pyranet_fast.data.base import ConcatSource, PeopleSource
from pyranet_fast.errors import UserError

DATASETS = ("demo", "lsp", "lsp+lspet")
SPLITS = ("train", "val", "test")

# Synthetic people are made from a seed: as many as wished. These are what the demo uses.
# The demo's network is small and trains for minutes: its people mostly stand or walk and face the camera.
_DEMO_VARIETY = 0.1
_DEMO_COUNT = {"train": 4096, "val": 512, "test": 512}


def open_dataset(
    name: str, root: str | Path | None, split: str, *, count: int | None = None, seed: int = 0
) -> PeopleSource:
    """Open one split of a data set.

    Args:
        name: ``"demo"`` (synthetic people, no files), ``"lsp"`` or ``"lsp+lspet"``. LSP trains on images
            1-1000, with LSP-extended in the second form; ``"val"`` and ``"test"`` are LSP 1001 to the end.
        root: the folder that holds ``lsp_dataset/`` and ``lspet_dataset/``; not used for ``"demo"``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        count: for ``"demo"``, the number of people; None is 4096 for training and 512 otherwise.
        seed: for ``"demo"``, the seed; splits of one seed share nobody.

    Raises:
        UserError: unknown name or split, no root, or anything wrong with the files.
    """
    if name not in DATASETS:
        raise UserError(f"unknown dataset {name!r}; there are {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if name == "demo":
        from pyranet_fast.data.synthetic import SyntheticSource

        return SyntheticSource(_DEMO_COUNT[split] if count is None else count, seed, split=split, variety=_DEMO_VARIETY)
    if root is None:
        raise UserError(f"dataset {name!r} needs a root: the folder that holds lsp_dataset/")
    from pyranet_fast.data.lsp import LSPExtendedSource, LSPSource

    if split != "train":
        return LSPSource(root, "1001-")
    if name == "lsp":
        return LSPSource(root, "1-1000")
    return ConcatSource([LSPSource(root, "1-1000"), LSPExtendedSource(root)])
