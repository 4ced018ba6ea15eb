"""PyraNet training on people: data, network, loss, validation and images of `Trainer`."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import ops
from ..checkpoint import POSE, Checkpoint
from ..data import open_dataset
from ..data.cache import CachedSource
from ..data.crops import CropDataset, EpochBatchSampler, require_shared_memory, worker_init
from ..data.dataset import PeopleSource, Subset
from ..data.image_io import write_image
from ..data.left_out import LeftOut, with_images
from ..data.transforms import Augmentation, normalize
from ..errors import DataWarning, UserError
from ..evaluation.curves import pck_curve
from ..evaluation.evaluator import evaluate_pose
from ..evaluation.report import Row, published_beside
from ..evaluation.worst_page import mean_errors, people_errors, person_picture, picture_legend
from ..io import max_pixels
from ..keypoints import Skeleton, resolve_skeleton
from ..models import PyraNet
from ..models.zoo import load_checkpoint, load_weights
from ..nn.batch_statistics import synchronize_batch_norms_
from ..nn.checkpointing import checkpoint_activations_
from ..nn.init import initialize_
from ..visualization import contact_sheet, draw_pose
from . import distributed
from .config import PoseConfig
from .report import Example, Findings
from .transfer import transferred

logger = logging.getLogger("pyranet_fast")

PICTURES = 12
EXAMPLES = 6  # of each kind in the report
CONVENTION = "single scale, no flip"
_PIXELS = 320  # side of an example


def make_network(config: PoseConfig, joints: int) -> PyraNet:
    """Build the network of a config; UserError if its options are inconsistent."""
    try:
        return PyraNet(
            config.stacks,
            joints,
            features=config.features,
            variant=config.variant,
            levels=config.levels,
            base_width=config.base_width,
            depth=config.depth,
            pool_windows=config.pool_windows,
            variance_control=config.variance_control,
        )
    except ValueError as error:
        raise UserError(f"the network cannot be built from these flags: {error}") from error


class PoseTask:
    """Pose task of `trainer.Trainer`: people, a PyraNet, heat map loss, PCK.

    Args:
        config: options of data, network and training.
        device: of the network.

    Raises:
        UserError: the data cannot be read, or the options are inconsistent.
    """

    kind = POSE

    def __init__(self, config: PoseConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        if config.cuda_graph and (device.type != "cuda" or distributed.world_size() > 1):
            got = f"{distributed.world_size()} processes" if distributed.world_size() > 1 else f"device {device}"
            raise UserError(f"--cuda-graph needs one process on an NVIDIA GPU, got {got}")
        check_values_a_channel(config)
        augmentation = Augmentation(
            scale=config.scale_noise,
            rotation=config.rotation_noise,
            rotation_probability=config.rotation_probability,
            color=config.color_noise,
            resize=config.resize_share,
            turn=config.turn_share,
            cut=config.cut_share,
            cover=config.cover_share,
            empty=config.empty_share,
        )
        people, held_out = (
            open_dataset(config.dataset, config.root, split, allow_outside=config.allow_outside)
            for split in ("train", "val")
        )
        network = initial_network(config, people.skeleton)  # what is wrong with it is said before pictures are read
        self._digests = frozenset(people.digest(index) for index in range(len(people)))
        self.people = prepare_people(people, config, augmentation)
        self.held_out = prepare_people(held_out, config, None)
        self.data = CropDataset(
            self.people,
            config.input_size,
            augmentation=augmentation,
            seed=config.seed,
            on_error="skip" if config.on_error == "skip" else "raise",
            early_size=config.early_size,
            early_epochs=round(config.early_share * config.epochs),
            absence_weight=config.absence_weight,
        )
        self.steps_per_epoch = len(self.people) // config.batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"--batch-size must be at most the number of people in the dataset, {len(self.people)}, got "
                f"{config.batch_size}"
            )
        self.architecture = network.config
        self.model: nn.Module = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.corrupt: dict[int, str] = {}
        self._predictions: NDArray[np.float32] | None = None  # of the last validation

    def optimizer(self) -> torch.optim.Optimizer:
        """RMSProp as in the paper's code: alpha 0.99, epsilon 1e-8."""
        c = self.config
        return torch.optim.RMSprop(
            self.model.parameters(),
            lr=torch.tensor(c.lr, device=self.device) if c.cuda_graph else c.lr,
            alpha=0.99,
            eps=1e-8,
            weight_decay=c.weight_decay,
            foreach=True,
            capturable=c.cuda_graph,
        )

    def batches(self, first: int, last: int) -> Iterator[dict[str, Tensor]]:
        """Yield batches in an order determined by (seed, step); corrupt images are reported once."""
        c = self.config
        workers = loader_workers(c.workers, self.device)
        sampler = EpochBatchSampler(
            len(self.people), c.batch_size, c.seed, first, last, rank=distributed.rank(), ranks=distributed.world_size()
        )
        require_shared_memory(workers)
        loader = DataLoader(
            self.data,
            batch_sampler=sampler,
            num_workers=workers,
            worker_init_fn=partial(worker_init, pixels=max_pixels()),
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if workers else None,
            generator=torch.Generator().manual_seed(c.seed),  # its own: the default one belongs to the network
        )
        for batch in loader:
            self._name_corrupt(batch)
            yield batch

    def _name_corrupt(self, batch: dict[str, Any]) -> None:
        for place in (~batch["valid"]).nonzero().flatten().tolist():
            index = int(batch["index"][place])
            if index not in self.corrupt:
                self.corrupt[index] = batch["why"][place]
                name = self.people.image_name(index)
                why = self.corrupt[index].removeprefix("whose picture ")
                logger.warning(f"left out: picture {name} {why} ({len(self.corrupt)} people so far)")

    def left_out(self, corrupt: dict[int, str]) -> LeftOut:
        """People by index, with the reason why their image could not be used."""
        found = LeftOut()
        for index, why in corrupt.items():
            name = self.people.image_name(index)
            found.add(why, name, first=name)
        return found

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        """Sum over the stacks of the mean squared error (paper, 3.1)."""
        move = {k: batch[k].to(self.device, non_blocking=True) for k in ("image", "joints", "weight")}
        images = normalize(move["image"]).contiguous(memory_format=torch.channels_last)
        low = self.config.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            maps = self.model(images)
        loss = torch.stack(
            [ops.heatmap_loss(m, move["joints"], move["weight"], sigma=self.config.sigma) for m in maps]
        ).sum()
        return loss, accuracy(maps[-1].detach(), move["joints"], move["weight"]), len(images)

    def trial_batch(self, samples: int) -> dict[str, Tensor]:
        """Gray images of the largest size, with a joint in the center."""
        c = self.config
        joints = torch.full((samples, len(self.people.skeleton), 2), c.input_size / 8)
        image = torch.full((samples, 3, c.input_size, c.input_size), 128, dtype=torch.uint8)
        return {"image": image, "joints": joints, "weight": torch.ones(joints.shape[:2])}

    def validate(self, model: nn.Module, epoch: int) -> dict[str, Any]:
        """Validate at single scale without flip, at the input size of the epoch: fast, to monitor a run."""
        c = self.config
        score, self._predictions = evaluate_pose(
            model,
            self.held_out,
            self.data.size(epoch),
            flip=False,
            batch_size=max(32, c.batch_size),
            device=self.device,
            precision=c.precision,
            on_error="skip" if c.on_error == "skip" else "raise",
        )
        return score.as_dict()

    def draw(self, model: nn.Module, path: Path, epoch: int) -> None:
        """Draw predictions on the first validation people, at the input size of the epoch."""
        c = self.config
        some = Subset(self.held_out, self._people_to_draw())
        _, predictions = evaluate_pose(
            model,
            some,
            self.data.size(epoch),
            flip=False,
            batch_size=PICTURES,
            device=self.device,
            precision=c.precision,
        )
        skeleton = self.people.skeleton
        cells = [
            draw_pose(some.image(i), predictions[i, :, :2], predictions[i, :, 2], skeleton) for i in range(len(some))
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, contact_sheet(cells, columns=4))

    def facts(self) -> dict[str, str]:
        """Describe data and network as text."""
        c = self.config
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            "training people": f"{len(self.people)}, {self.people.name}",
            "validation people": f"{len(self.held_out)}, {self.held_out.name}",
            "joints": f"{len(self.people.skeleton)}, {self.people.skeleton.name}",
            "network": f"{c.variant}, {c.stacks} stacks, {c.features} features, {c.input_size} px",
            "parameters": f"{parameters / 1e6:.3f} M",
        }

    def findings(self, results: dict[str, Any]) -> Findings:
        """Return the last validation with published results, its curve, and the best, typical and worst people."""
        people, metric, predictions = self.held_out, self.held_out.metric, self._predictions
        if predictions is None:
            return Findings()
        errors = people_errors(people, predictions)
        errors[np.isnan(predictions).all(axis=(1, 2))] = np.nan  # unreadable images, which no score counts
        note = f"{CONVENTION}, {results['count']} people" if "count" in results else CONVENTION
        published = published_beside(metric)
        ours = Row("here", results["metric"], people.name, results["mean"], results.get("columns", {}), note=note)
        return Findings(
            rows=[ours, *published],
            columns=tuple(metric.columns),
            examples=self._examples(predictions[..., :2].astype(np.float64), errors),
            curve=pck_curve(errors, metric=metric) if np.isfinite(errors).any() else None,
            convention=CONVENTION + ("; published figures are of flips and mostly of six scales" if published else ""),
            legend=f'{picture_legend()}<span class="swatch truth"></span>truth (thin)',
        )

    def _examples(self, points: NDArray[np.float64], errors: NDArray[np.float64]) -> list[Example]:
        """People with the least, the middle and the greatest mean errors, each once."""
        people, metric = self.held_out, self.held_out.metric
        counted = (~np.isnan(errors)).sum(axis=1)
        means = mean_errors(errors)
        # Few joints are easily all right: only people with at least half as many as usual stand for the best.
        enough = counted >= max(1, np.median(counted[counted > 0]) / 2) if counted.any() else counted > 0
        ranked = [int(index) for index in np.argsort(means, kind="stable") if counted[index]]
        whole = [index for index in ranked if enough[index]]
        middle = max(0, len(whole) // 2 - EXAMPLES // 2)
        chosen = {
            "worst": ranked[::-1][:EXAMPLES],
            "best": whole[:EXAMPLES],
            "typical": whole[middle : middle + EXAMPLES],
        }
        shown: set[int] = set()
        examples = []
        for group, indices in chosen.items():
            for index in indices:
                if index in shown:
                    continue
                shown.add(index)
                try:
                    image, person = people.image(index), people.person(index)
                except (UserError, OSError):
                    continue
                joint = int(np.nanargmax(errors[index]))
                right = int(metric.right(errors[index]).sum())
                mean = (
                    f"mean error {means[index]:.2f} {metric.units}" if np.isfinite(means[index]) else "a joint missing"
                )
                examples.append(
                    Example(
                        group,
                        person_picture(image, person, points[index], people.skeleton, joint, _PIXELS),
                        f"{right} of {counted[index]} joints right, {mean}; {people.image_name(index)}",
                    )
                )
        return examples

    def _people_to_draw(self) -> list[int]:
        """The first validation people, without those whose image cannot be read where ``--on-error`` allows that."""
        if self.config.on_error == "raise":
            return list(range(min(PICTURES, len(self.held_out))))
        found: list[int] = []
        for index in range(len(self.held_out)):
            if len(found) == PICTURES:
                break
            with contextlib.suppress(UserError):
                self.held_out.image(index)
                found.append(index)
        return found

    def checkpoint(self, weights: dict[str, Tensor]) -> Checkpoint:
        """Return network configuration, weights, skeleton and input size."""
        return Checkpoint(
            model=self.architecture,
            weights=weights,
            skeleton=self.people.skeleton.as_value(),
            input_size=self.config.input_size,
            training={"labels": torch.tensor(sorted(map(_as_number, self._digests)), dtype=torch.int64)},
        )

    def compare_data(self, checkpoint: Checkpoint, source: str | Path) -> None:
        """Reject other joints on resuming; report how many people were added and removed.

        Raises:
            UserError: joints, their order or flip pairs differ from the checkpoint.
        """
        then, now = resolve_skeleton(checkpoint.skeleton), self.people.skeleton
        if (then.joints, then.flip_pairs) != (now.joints, now.flip_pairs):
            what = "mirror pairs" if then.joints == now.joints else "joints"
            raise UserError(
                f"checkpoint {source} was trained on other {what} than {self.config.dataset} has now: "
                f"{_difference(then, now)}; use the labels of that training, or another --output"
            )
        labels = checkpoint.training.get("labels")
        if labels is None or not distributed.is_main_process():  # a checkpoint of version 0.1.0
            return
        before, here = set(labels.tolist()), set(map(_as_number, self._digests))
        new, gone = len(here - before), len(before - here)
        if new or gone:
            logger.warning(
                f"the training people have changed since {source} was saved: {new} of {len(here)} are new or have "
                f"other labels, {gone} of those before are gone"
            )


def _as_number(digest: bytes) -> int:
    return int.from_bytes(digest, "little", signed=True)


def _difference(then: Skeleton, now: Skeleton) -> str:
    """Where two skeletons differ first, in words."""
    if len(then) != len(now):
        return f"{len(then)} then and {len(now)} now"
    for number, (old, new) in enumerate(zip(then.joints, now.joints, strict=True), 1):
        if old != new:
            return f"joint {number} of {len(now)} was {old!r} then and is {new!r} now"

    def pairs(skeleton: Skeleton) -> set[str]:
        return {"/".join(skeleton.joints[joint] for joint in pair) for pair in skeleton.flip_pairs}

    changed = sorted(pairs(then) ^ pairs(now))
    return f"{changed[0]} is one of them only {'then' if changed[0] in pairs(then) else 'now'}"


def check_values_a_channel(config: PoseConfig) -> None:
    """Raise UserError if a batch norm would get one value per channel: one sample with innermost maps of one pixel."""
    processes = 1 if config.sync_batchnorm else distributed.world_size()
    size = min(config.input_size, config.early_size or config.input_size)
    if config.batch_size // processes > 1 or size // (4 * 2**config.depth) > 1:
        return
    share = f" for {processes} processes, 1 for each" if processes > 1 else ""
    others = ", --sync-batchnorm" if processes > 1 else ""
    flag = "--input-size" if size == config.input_size else "--early-size"
    raise UserError(
        f"--batch-size must be at least {2 * processes}, got {config.batch_size}{share}: with {flag} {size} and "
        f"--depth {config.depth} the innermost maps have one pixel, and a batch norm needs two values per channel; or "
        f"use a larger {flag}, a smaller --depth{others}"
    )


def prepare_people(people: PeopleSource, config: PoseConfig, augmentation: Augmentation | None) -> PeopleSource:
    """Select readable people with ``--on-error skip``, and cache their images with ``--cache``.

    Args:
        people: of one split.
        config: its ``on_error``, ``cache`` and ``input_size``.
        augmentation: determines the region to cache; None: no augmentation.
    """
    if config.on_error == "skip":
        people = with_images(people)
    if not config.cache:
        return people
    # Decoded once, before loader processes start.
    kept = CachedSource(people, augmentation=augmentation, input_size=config.input_size)
    if kept.failures:
        if config.on_error == "raise":
            raise next(iter(kept.failures.values()))
        left_out = LeftOut()
        for index, error in kept.failures.items():
            left_out.add_unreadable(error, people.image_name(index))
        warnings.warn(f"{people.name}: {left_out.sentence(len(people))}", DataWarning, stacklevel=2)
    return kept


def initial_network(config: PoseConfig, skeleton: Skeleton) -> PyraNet:
    """Build the initial network: initialized by the seed, or with the weights of ``--weights``."""
    torch.manual_seed(config.seed)
    model = make_network(config, len(skeleton))
    initialize_(model, config.init, torch.zeros(1, 3, config.input_size, config.input_size))
    if config.weights is not None:
        start = load_checkpoint(config.weights)
        load_weights(model, transferred(start, model.config, skeleton, config.weights), config.weights)
    if config.activation_checkpointing:
        checkpoint_activations_(model)
    if config.sync_batchnorm:
        synchronize_batch_norms_(model)
    return model


def loader_workers(asked: int, device: torch.device) -> int:
    """Loader processes; for -1 one for each core but one, at most 8, and on the CPU none: they would take the cores
    that train (measured: 97 people a second without, 78 with one on two cores)."""
    if asked >= 0:
        return asked
    cores = (os.cpu_count() or 1) // distributed.local_world_size()
    return 0 if device.type == "cpu" else min(8, max(0, cores - 1))


def accuracy(maps: Tensor, joints: Tensor, weight: Tensor) -> Tensor:
    """Return the fraction of joints in the crop predicted within a twentieth of the map side, as training accuracy."""
    with torch.no_grad():
        coords, _ = ops.heatmap_argmax(maps)
        close = (coords - joints).square().sum(2).sqrt() <= maps.shape[-1] / 20
        inside = ((joints >= -0.5) & (joints < maps.shape[-1] - 0.5)).all(2)
        counted = (weight > 0) & inside
        return (close & counted).sum() / counted.sum().clamp_min(1)
