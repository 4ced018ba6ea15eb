"""From image crops to joints: score maps with flip testing, decoded at one scale or several (section 5.1.1)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .. import ops
from ..data.transforms import from_map, normalize
from ..errors import UserError
from ..keypoints import Skeleton
from ..models import PyraNet, optimize_for_inference
from ..models.precision import AUTO, Choice, choose_precision
from .exported import ExportedNetwork

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Prepared:
    """A network as `prepare` makes it.

    Attributes:
        network: where predictions are made, in its fastest form.
        autocast: the ``precision`` to give to `score_maps`.
        precision: ``"fp32"`` or ``"bf16"``: what predictions are made in.
        choice: why, where it was found out.
    """

    network: nn.Module
    autocast: str
    precision: str
    choice: Choice | None = None


def prepare(model: nn.Module, device: torch.device, precision: str, input_size: int, batch: int) -> Prepared:
    """A network ready for predictions, in a precision that may have to be found out first.

    Args:
        model: a network that a checkpoint gave; it may be changed.
        device: where predictions are made.
        precision: ``"fp32"`` and ``"bf16"`` are taken as they are; ``"auto"`` is the faster one, found by passes.
        input_size: side of the network's input.
        batch: pictures that go through the network together.
    """
    if precision != AUTO:
        return Prepared(*prepare_model(model, device, precision), precision)
    forms: dict[str, tuple[nn.Module, str]] = {}

    def form(asked: str) -> tuple[nn.Module, str]:
        if asked not in forms:
            forms[asked] = prepare_model(model, device, asked)
        return forms[asked]

    def attempt(asked: str, samples: int) -> None:
        network, autocast = form(asked)
        images = torch.full((samples, 3, input_size, input_size), 0.1, device=device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast == "bf16"):
            network(images.contiguous(memory_format=torch.channels_last))

    choice = choose_precision(attempt, batch, "a pass", device)
    return Prepared(*form(choice.precision), choice.precision, choice)


def prepare_model(model: nn.Module, device: torch.device, precision: str) -> tuple[nn.Module, str]:
    """A network where predictions are made, in its fastest form, and the ``precision`` to give to `score_maps`.

    Of a `PyraNet` that is `models.optimize_for_inference`'s, which has the precision in itself.

    Args:
        model: a network that a checkpoint gave; it may be changed.
        device: where to.
        precision: ``"fp32"`` or ``"bf16"``.
    """
    if isinstance(model, PyraNet):
        return optimize_for_inference(model, precision).to(device), "fp32"
    return model.to(device, memory_format=torch.channels_last), precision  # type: ignore[call-overload]


class JointMaps(nn.Module):
    """A network's score maps as those of other joints: LSP's of a network with MPII's.

    Args:
        network: gives score maps, or a list of which the last counts.
        origins: for each joint the indices of the maps whose mean is its own, as `data.dataset.joint_origins` says.
    """

    def __init__(self, network: nn.Module, origins: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.network, self.origins = network, [list(joints) for joints in origins]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) to (N, len(origins), S/4, S/4)."""
        maps = _last(self.network(images))
        return torch.stack([maps[:, joints].mean(dim=1) for joints in self.origins], dim=1)


@contextmanager
def constant_sizes() -> Iterator[None]:
    """Lets cuDNN time its kernels once a shape inside the block: where all crops have one size, that pays on a GPU."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def score_maps(
    model: nn.Module,
    images: Tensor,
    skeleton: Skeleton,
    *,
    flip: bool = True,
    device: torch.device | str | None = None,
    precision: str = "fp32",
) -> Tensor:
    """Score maps of the last stack.

    With ``flip`` they are the mean of the maps of each image and of its mirror (mirrored back, left and right
    joints changed over, no one-pixel shift: with pixel centers at (input + 0.5) / 4 - 0.5 the two agree
    exactly). Both go through the network in one batch.

    Args:
        model: gives a list of score maps, of which the last counts, or a single tensor. It is run in eval
            mode and left in the mode it was in. An exported file that has the mirrored pass in itself makes it
            whatever ``flip`` is.
        images: (N, 3, S, S) uint8 RGB, on any device.
        skeleton: what the K maps mean.
        device: where the model is and the work is done; None means where the model's parameters are.
        precision: ``"fp32"``, or ``"bf16"`` for autocast.

    Returns:
        (N, K, S/4, S/4) float32 on ``device``.

    Raises:
        TypeError, ValueError: an argument is not as described, or the model gives another number of maps.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        got = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise TypeError(f"images must be a uint8 tensor (N, 3, S, S), got {got}")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (N, 3, S, S), got {tuple(images.shape)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}")
    home, dtype = _home(model)
    where = torch.device(device) if device is not None else home

    decoded = isinstance(model, ExportedNetwork) and model.description.decoded
    flip = flip and not (isinstance(model, ExportedNetwork) and model.description.mirrored)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            batch = images.to(where, non_blocking=True)
            batch = batch if decoded else normalize(batch).to(dtype)
            if flip:
                batch = torch.cat([batch, batch.flip(3)])
            maps = _last(model(batch.contiguous(memory_format=torch.channels_last))).float()
            if maps.dim() != 4 or maps.shape[1] != len(skeleton):
                raise ValueError(
                    f"the model gives maps of shape {tuple(maps.shape)}; "
                    f"(N, {len(skeleton)}, h, w) is needed for skeleton {skeleton.name!r}"
                )
            if flip:
                straight, mirrored = maps.chunk(2)
                maps = ops.reference.mirrored_mean(straight, mirrored, skeleton.flip_permutation)
    finally:
        model.train(training)
    return maps


def require_finite(values: Tensor | npt.NDArray[np.float32]) -> None:
    """Refuse score maps, or the scores of an exported file, of which no pose can be made.

    Raises:
        UserError: one is infinite or NaN.
    """
    if not torch.as_tensor(values).isfinite().all():
        raise UserError(
            "the network gives score maps that are not finite, of which no pose is made: its weights are damaged, its "
            "training diverged, or the precision is too low for them"
        )


def _home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a network's weights are, and in which precision."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    if first is None:
        return torch.device("cpu"), torch.float32
    return first.device, first.dtype if first.is_floating_point() else torch.float32


def _last(outputs: Any) -> Tensor:
    last: Tensor = outputs if isinstance(outputs, Tensor) else outputs[-1]
    return last


def decode(maps: Tensor, inverse: Tensor | npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Joints in image pixels: maximum, a quarter pixel toward the larger neighbor, affine map back.

    Args:
        maps: (N, K, h, w) float.
        inverse: (N, 2, 3), affine maps from input pixels to image pixels; one map pixel is four input pixels,
            input = (map + 0.5) * 4 - 0.5.

    Returns:
        ``(joints, scores)``: joints (N, K, 2) float32, x and y in image pixels; scores (N, K)
            float32, the maxima.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    places, scores = ops.heatmap_argmax(maps.detach(), refine="quarter")
    back = np.asarray(inverse.cpu() if isinstance(inverse, Tensor) else inverse, dtype=np.float64)
    if back.shape != (len(maps), 2, 3):
        raise ValueError(f"inverse must have shape ({len(maps)}, 2, 3), one map per image, got {back.shape}")
    points = from_map(places.cpu().numpy())
    joints = np.einsum("nij,nkj->nki", back[:, :, :2], points) + back[:, None, :, 2]
    return joints.astype(np.float32), scores.float().cpu().numpy()


# What the crop's side is multiplied by in six-scale testing.
SIX_SCALES = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
_BLOCK = 16  # lines of a block along each axis, and the first of the next
_AT_ONCE = 1024  # blocks processed together: bounds the memory


@dataclass(frozen=True)
class _Lines:
    """The lines of one axis and what blocks of them see of each map, which has a margin of one 0 on either side."""

    u: Tensor  # (L,) float64, rising
    lines: Tensor  # (B, _BLOCK + 1), lines of a block
    # Where a map's values along the axis are largest or between two such: a block's ends and the pixels in it.
    first: Tensor  # (S, B, R), pixels of the map with margins
    weight: Tensor  # (S, B, R), of the pixel after them

    @property
    def starts(self) -> Tensor:
        return self.u[self.lines[:, 0]]

    @property
    def ends(self) -> Tensor:
        return self.u[self.lines[:, -1]]


@lru_cache(maxsize=8)
def _lines(size: int, scales: tuple[float, ...]) -> _Lines:
    pixels = np.arange(-1, size + 1) - (size - 1) / 2  # the average falls to 0 one pixel outside
    u = np.unique(np.concatenate([scale * pixels / size for scale in scales]))
    length = min(_BLOCK, len(u) - 1)
    starts = np.arange(0, len(u) - 1, length)
    lines = np.minimum(starts[:, None] + np.arange(length + 1), len(u) - 1)
    place = _places(u[None], np.asarray(scales)[:, None], size)
    start, end = place[:, lines[:, 0], None], place[:, lines[:, -1], None]
    within = np.floor(start) + np.arange(1, int((end - start).max()) + 2)
    points = np.concatenate([start, np.clip(within, start, end), end], -1)
    first = np.minimum(np.floor(points), size)
    return _Lines(
        torch.from_numpy(u),
        torch.from_numpy(lines),
        torch.from_numpy(first.astype(np.int64)),
        torch.from_numpy((points - first).astype(np.float32)),
    )


def _places(u: npt.NDArray[np.float64], scale: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Where u lies in the map with margins, of size + 2 pixels."""
    return np.clip(u * size / scale + (size - 1) / 2, -1.0, size) + 1


def decode_scales(
    maps: Tensor,
    scales: Sequence[float],
    centers: npt.ArrayLike,
    sides: npt.ArrayLike,
    image_sizes: npt.ArrayLike,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Joints in image pixels, where the mean of all scales' maps, interpolated bilinearly, is largest.

    Args:
        maps: (N, S, K, h, w) float, for every scale the maps of the crop of that scale.
        scales: S positive numbers that the crop's side was multiplied by.
        centers: (N, 2), middle of the crops in image pixels, x and y.
        sides: (N,), side of the crop of scale 1 in image pixels.
        image_sizes: (N, 2), width and height; joints are looked for between the centers of the corner pixels.

    Returns:
        ``(joints, scores)``: joints (N, K, 2) float32, x and y in image pixels; scores (N, K) float32, the mean
            there. Of equal maxima one is taken, always the same; where a map holds a NaN, all three are NaN.

    Raises:
        ValueError: an argument is not as described.
    """
    if maps.dim() != 5 or maps.shape[1] != len(scales) or not all(scale > 0 for scale in scales):
        raise ValueError(f"maps must have shape (N, S, K, h, w) for scales {tuple(scales)}, got {tuple(maps.shape)}")
    n, s, k, h, w = maps.shape
    middle, side, size = (np.asarray(a, dtype=np.float64) for a in (centers, sides, image_sizes))
    for name, array, shape in (("centers", middle, (n, 2)), ("sides", side, (n,)), ("image_sizes", size, (n, 2))):
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite numbers of shape {shape}, got shape {array.shape}")
    if n * k == 0:
        return np.zeros((n, k, 2), np.float32), np.zeros((n, k), np.float32)

    # (N * K, S, h + 2, w + 2); the mean's division is done here.
    padded = torch.nn.functional.pad(maps.detach().float() / s, (1, 1, 1, 1)).transpose(1, 2).flatten(0, 1).contiguous()
    key = tuple(float(scale) for scale in scales)
    axes = []
    for axis, length in ((1, h), (0, w)):
        low, high = -middle[:, axis] / side, (size[:, axis] - 1 - middle[:, axis]) / side
        axes.append(_Axis(_lines(length, key), length, key, low, high, maps.device))
    rows, columns = axes
    bound = _bounds(padded, rows, columns, k)
    with_nan = padded.isnan().flatten(1).any(1)

    every = torch.arange(n * k, device=maps.device)
    best, at = _search(padded, rows, columns, k, every, bound.flatten(1).argmax(1))
    which, block = (bound.flatten(1) > best[:, None]).nonzero().unbind(1)
    if len(which):
        best, at = _keep_best(best, at, which, *_search(padded, rows, columns, k, which, block))

    person = every // k
    joints = np.stack([columns.position(person, at[:, 1]), rows.position(person, at[:, 0])], -1)
    joints = joints * side[:, None, None].repeat(k, 1).reshape(-1, 1) + middle[:, None].repeat(k, 1).reshape(-1, 2)
    joints[with_nan.cpu().numpy()] = np.nan
    best = best.masked_fill(with_nan, torch.nan)
    return joints.reshape(n, k, 2).astype(np.float32), best.view(n, k).cpu().numpy()


class _Axis:
    """One axis of all people: their lines, moved onto the image's border where they lie beyond it."""

    def __init__(
        self,
        lines: _Lines,
        size: int,
        scales: tuple[float, ...],
        low: npt.NDArray[np.float64],
        high: npt.NDArray[np.float64],
        device: torch.device,
    ) -> None:
        u = lines.u.numpy()
        low, high = (np.clip(edge, u[0], u[-1])[:, None] for edge in (low, high))
        self.u = np.clip(u[None], low, high)  # (N, L)
        place = _places(self.u[:, None], np.asarray(scales)[None, :, None], size)
        first = np.minimum(np.floor(place), size)
        self.first = torch.from_numpy(first.astype(np.int64)).to(device)  # (N, S, L)
        self.weight = torch.from_numpy((place - first).astype(np.float32)).to(device)
        self.lines = lines.lines.to(device)
        self.of_blocks = lines.first.to(device), lines.weight.to(device)
        starts, ends = lines.starts.numpy(), lines.ends.numpy()
        self.inside = torch.from_numpy((ends >= low) & (starts <= high)).to(device)  # (N, B)
        self.blocks = len(starts)

    def position(self, person: Tensor, line: Tensor) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self.u[person.cpu().numpy(), line.cpu().numpy()]
        return found


def _bounds(padded: Tensor, rows: _Axis, columns: _Axis, k: int) -> Tensor:
    """(N * K, B_y, B_x): no value in a block is larger; -inf where a block lies outside the image."""
    bound = padded.new_zeros(len(padded), rows.blocks, columns.blocks)
    for scale in range(padded.shape[1]):
        taken = padded[:, scale]  # (M, h, w)
        for axis in (rows, columns):
            first, weight = (of[scale] for of in axis.of_blocks)  # (B, R)
            points = first.flatten()
            along = torch.lerp(taken[:, points], taken[:, points + 1], weight.reshape(1, -1, 1))
            # (M, B_y, w), then (M, B_x, B_y): the axis that comes next in the middle.
            taken = along.unflatten(1, first.shape).amax(2).transpose(1, 2).contiguous()
        bound += taken
    inside = rows.inside[:, :, None] & columns.inside[:, None, :]
    return bound.masked_fill(~inside.repeat_interleave(k, 0), -torch.inf)


def _search(padded: Tensor, rows: _Axis, columns: _Axis, k: int, which: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value (P,) at the crossings of blocks of maps, and the lines (P, 2) that cross there."""
    parts = zip(which.split(_AT_ONCE), block.split(_AT_ONCE), strict=True)
    values, places = zip(*(_search_part(padded, rows, columns, k, *part) for part in parts), strict=True)
    return torch.cat(values), torch.cat(places)


def _search_part(
    padded: Tensor, rows: _Axis, columns: _Axis, k: int, which: Tensor, block: Tensor
) -> tuple[Tensor, Tensor]:
    _, s, height, width = padded.shape
    lines_y, lines_x = rows.lines[block // columns.blocks], columns.lines[block % columns.blocks]  # (P, L)
    first_y, weight_y = _of_block(rows, which // k, lines_y)  # (P, S, L)
    first_x, weight_x = _of_block(columns, which // k, lines_x)
    maps = which[:, None] * s + torch.arange(s, device=padded.device)  # (P, S)
    at = (maps[..., None] * height + first_y)[..., None] * width + first_x[:, :, None, :]  # (P, S, L, L)
    weight_x, flat = weight_x[:, :, None, :], padded.flatten()
    above = torch.lerp(flat[at], flat[at + 1], weight_x)
    below = torch.lerp(flat[at + width], flat[at + width + 1], weight_x)
    value, place = torch.lerp(above, below, weight_y[..., None]).sum(1).flatten(1).max(1)
    across = lines_x.shape[1]
    crossing = [lines_y.gather(1, place[:, None] // across), lines_x.gather(1, place[:, None] % across)]
    return value, torch.cat(crossing, 1)


def _of_block(axis: _Axis, person: Tensor, lines: Tensor) -> tuple[Tensor, Tensor]:
    index = lines[:, None].expand(-1, axis.first.shape[1], -1)
    return axis.first[person].gather(2, index), axis.weight[person].gather(2, index)


def _keep_best(best: Tensor, at: Tensor, which: Tensor, value: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """``best`` and ``at`` with blocks of maps ``which`` taken into account; of equal values the first stays."""
    top = best.scatter_reduce(0, which, value, "amax")
    wins = (value == top[which]) & (value > best[which])
    none = len(which)
    number = torch.where(wins, torch.arange(none, device=which.device), none)
    first = which.new_full(best.shape, none).scatter_reduce(0, which, number, "amin")
    chosen = place[first.clamp(max=none - 1)]
    return top, torch.where((first < none)[:, None], chosen, at)
