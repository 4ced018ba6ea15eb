"""Leeds Sports Pose and LSP-extended in their published layout (Johnson and Everingham 2010, 2011)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..keypoints import LSP
from ..metrics import PCK, torso_length
from .dataset import PIXELS_PER_SCALE, Image, PeopleSource, Person, digest_of, folder_below
from .image_io import read_image
from .matlab import load_matlab

_NAME = re.compile(r"im0*(\d+)\.(jpe?g|png)", re.IGNORECASE)

# The crop's side in units of an LSP image's longer side.
_MARGIN = 1.05
# Limbs whose length estimates the size of a person, with the 85th percentile of their lengths in LSP 1-1000,
# in pixels (right and left shank and thigh, right and left side of the torso).
_LIMBS = ((0, 1), (1, 2), (3, 4), (4, 5), (8, 2), (9, 3))
_LIMB_PIXELS = np.array([40.0, 38.0, 38.0, 40.0, 48.5, 48.5])
# Least squares fit of the longer image side in LSP 1-1000: 0.87 of the joints' box + 58.6 px times that size.
_BOX_SHARE, _SIZE_SHARE = 0.8705, 58.63


class _LeedsSource(PeopleSource):
    """What both datasets share: joints.mat, the folder of images, the torso as unit of length."""

    skeleton = LSP
    metric = PCK

    def __init__(self, folder: Path, shape: tuple[int, int], other: str) -> None:
        """Open all images; ``shape`` is that of joints.mat, ``other`` a hint at the other dataset's."""
        self.folder = folder
        joints = _read_joints(folder, shape, other)
        # People first, then joints, then x, y, flag; the files count pixels from 1.
        joints = joints.transpose(2, 1, 0) if shape == (3, 14) else joints.transpose(2, 0, 1)
        self._flags = joints[..., 2] > 0.5
        self._joints = (joints[..., :2] - 1).astype(np.float32)
        self._paths = _list_images(folder, len(joints))
        self._sizes: dict[int, tuple[int, int]] = {}

    def _select(self, first: int, last: int) -> None:
        """Leave only the images ``first`` to ``last``, from 1."""
        self._flags = self._flags[first - 1 : last]
        self._joints = self._joints[first - 1 : last]
        self._paths = self._paths[first - 1 : last]

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int) -> Image:
        return read_image(self._paths[index])

    def image_name(self, index: int) -> str:
        return self._paths[index].name

    def digest(self, index: int) -> bytes:
        # Of LSP, the crop is the image's, which would have to be decoded.
        return digest_of(self.image_name(index), self._joints[index], self._flags[index])

    def reference_length(self, index: int) -> float:
        person = self.person(index)
        return float(torso_length(person.joints[None], person.labeled[None])[0])


class LSPSource(_LeedsSource):
    """Leeds Sports Pose: ``root/lsp_dataset/joints.mat`` (3, 14, N) and ``images/im0001.jpg``, ....

    Center and scale of the crop come from the image size alone, in training and in testing, never from the labels.
    The third number of a joint, 1 where it is occluded, is ignored: an occluded joint is labeled like any other.
    """

    def __init__(self, root: str | Path, images: str = "1-1000") -> None:
        """Open images ``images``, a range such as ``"1-1000"`` or ``"1001-"`` (to the end), from 1.

        Raises:
            UserError: missing folder or files, joints.mat of another shape, images and joints that do
                not match in number, or a range outside what is there.
        """
        super().__init__(
            folder_below(root, "lsp_dataset", "joints.mat"), (3, 14), "LSP-extended's joints.mat is (14, 3, N)"
        )
        first, last = _range(images, len(self), self.folder)
        self._select(first, last)
        self.name = f"lsp {first}-{last}"

    def person(self, index: int) -> Person:
        if index not in self._sizes:
            self._sizes[index] = self.image(index).shape[:2]
        height, width = self._sizes[index]
        return Person(
            joints=self._joints[index],
            labeled=np.ones(len(LSP), dtype=bool),
            center=np.array([(width - 1) / 2, (height - 1) / 2], dtype=np.float32),
            scale=_MARGIN * max(height, width) / PIXELS_PER_SCALE,
        )


class LSPExtendedSource(_LeedsSource):
    """LSP-extended: ``root/lspet_dataset/joints.mat`` (14, 3, N) and ``images/im00001.jpg``, ....

    The third number of a joint is 1 where it is labeled. Images are not cropped to the person, so center and scale come
    from the labeled joints, by a rule fitted to reproduce the crops of LSP. A scale from limb lengths avoids crops too
    tight for crouching people or people with few labeled joints.
    """

    def __init__(self, root: str | Path) -> None:
        """Open all images; UserError as for ``LSPSource``."""
        super().__init__(folder_below(root, "lspet_dataset", "joints.mat"), (14, 3), "LSP's joints.mat is (3, 14, N)")
        self.name = "lspet"
        empty = np.flatnonzero(~self._flags.any(axis=1))
        if empty.size:
            raise UserError(
                f"{self.folder / 'joints.mat'}: {self.image_name(int(empty[0]))} has no labeled joint "
                f"({empty.size} such); third column 1 = labeled"
            )
        self._centers, self._scales = _crop_placement(self._joints, self._flags)

    def person(self, index: int) -> Person:
        return Person(
            joints=self._joints[index],
            labeled=self._flags[index],
            center=self._centers[index],
            scale=float(self._scales[index]),
        )


def _crop_placement(
    joints: npt.NDArray[np.float32], labeled: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return centers (N, 2) and scales (N,) from labeled joints."""
    seen = labeled[..., None]
    low = np.where(seen, joints, np.inf).min(axis=1)
    high = np.where(seen, joints, -np.inf).max(axis=1)
    ends = np.array(_LIMBS)
    lengths = np.linalg.norm(joints[:, ends[:, 0]] - joints[:, ends[:, 1]], axis=-1)
    known = labeled[:, ends[:, 0]] & labeled[:, ends[:, 1]]
    size = np.where(known, lengths / _LIMB_PIXELS, 0.0).max(axis=1)
    box = (high - low).max(axis=1)
    # No limb is labeled: take the box for a whole person. Never less than a few pixels.
    side = np.where(size > 0, _BOX_SHARE * box + _SIZE_SHARE * size, box / 0.756)
    side = _MARGIN * np.maximum(side, 16.0)
    return ((low + high) / 2).astype(np.float32), (side / PIXELS_PER_SCALE).astype(np.float32)


def _read_joints(folder: Path, shape: tuple[int, int], other: str) -> npt.NDArray[np.float64]:
    path = folder / "joints.mat"
    if not path.is_file():
        raise UserError(f"{path} does not exist; it is part of the released dataset")
    content = load_matlab(path)
    if "joints" not in content:
        names = ", ".join(sorted(k for k in content if not k.startswith("__"))) or "nothing"
        raise UserError(f"{path} has no variable 'joints'; it holds {names}")
    joints = np.asarray(content["joints"])
    fits = joints.ndim == 3 and joints.shape[:2] == shape and joints.shape[2] > 0
    if not fits or joints.dtype.kind not in "iuf":
        raise UserError(
            f"{path}: joints has shape {joints.shape} and type {joints.dtype}; numbers of shape "
            f"({shape[0]}, {shape[1]}, N) are expected here ({other})"
        )
    if not np.all(np.isfinite(joints)):
        raise UserError(f"{path}: joints holds values that are not finite")
    return joints.astype(np.float64)


def _list_images(folder: Path, people: int) -> list[Path]:
    images = folder / "images"
    if not images.is_dir():
        raise UserError(f"{images} does not exist; it must hold im0001.jpg and on")
    found = {int(m[1]): images / m[0] for p in images.iterdir() if (m := _NAME.fullmatch(p.name))}
    missing = [number for number in range(1, people + 1) if number not in found]
    if missing or len(found) != people:
        detail = f"; the first one missing is number {missing[0]}" if missing else ""
        raise UserError(f"{images} has {len(found)} images, but joints.mat has {people} people{detail}")
    return [found[number] for number in range(1, people + 1)]


def _range(images: str, available: int, folder: Path) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*-\s*(\d*)\s*", str(images))
    if match is None:
        raise UserError(f"images must be a range such as '1-1000' or '1001-', got {images!r}")
    first, last = int(match[1]), int(match[2]) if match[2] else available
    if not 1 <= first <= last <= available:
        raise UserError(f"images {images!r} asks for more than {folder} holds: images 1 to {available}")
    return first, last
