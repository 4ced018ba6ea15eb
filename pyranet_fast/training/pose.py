"""Training a PyraNet on people: data, loss, validation and pictures for the loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import ops
from ..checkpoint import POSE, Checkpoint
from ..data import open_dataset
from ..data.cache import CachedSource
from ..data.crops import CropDataset, EpochBatchSampler, worker_init
from ..data.dataset import FirstPeople, PeopleSource, with_images
from ..data.image_io import write_image
from ..data.transforms import Augmentation, normalize
from ..errors import UserError
from ..evaluation.evaluator import evaluate_pose
from ..keypoints import resolve_skeleton
from ..models import PyraNet
from ..models.zoo import load_checkpoint, load_weights
from ..nn.checkpointing import checkpoint_activations_
from ..nn.init import initialize_
from ..visualization import contact_sheet, draw_pose
from . import distributed
from .config import PoseConfig
from .optim import learning_rate

PICTURES = 12


def make_network(settings: PoseConfig, joints: int) -> PyraNet:
    """The network that the settings ask for; UserError where they do not fit together."""
    try:
        return PyraNet(
            settings.stacks,
            joints,
            features=settings.features,
            variant=settings.variant,
            levels=settings.levels,
            base_width=settings.base_width,
            depth=settings.depth,
            pool_windows=settings.pool_windows,
            variance_control=settings.variance_control,
        )
    except ValueError as error:
        raise UserError(f"the network cannot be built from these flags: {error}") from error


def loader_workers(asked: int, device: torch.device) -> int:
    """Loader processes; for -1 one for each core but one, at most 8, and on the CPU none: they would take the cores
    that train (measured: 97 people a second without, 78 with one on two cores)."""
    if asked >= 0:
        return asked
    cores = (os.cpu_count() or 1) // distributed.local_size()
    return 0 if device.type == "cpu" else min(8, max(0, cores - 1))


class PoseTask:
    """See `training.loop.Task`."""

    kind = POSE

    def __init__(self, settings: PoseConfig, device: torch.device) -> None:
        self.settings, self.device = settings, device
        if settings.cuda_graph and (device.type != "cuda" or distributed.size() > 1):
            got = f"{distributed.size()} processes" if distributed.size() > 1 else f"device {device}"
            raise UserError(f"--cuda-graph was given for {got}; one process on an NVIDIA GPU is accepted")
        augmentation = Augmentation(
            scale=settings.scale_noise,
            rotation=settings.rotation_noise,
            rotation_probability=settings.rotation_probability,
            color=settings.colour_noise,
        )
        self.people = open_dataset(settings.dataset, settings.root, "train")
        self.held_out = open_dataset(settings.dataset, settings.root, "val")
        if settings.on_error == "skip":
            self.people, self.held_out = with_images(self.people), with_images(self.held_out)
        if settings.cache:
            self.people = cached(self.people, settings, augmentation)
            self.held_out = cached(self.held_out, settings, None)
        self.data = CropDataset(
            self.people,
            settings.input_size,
            augmentation=augmentation,
            seed=settings.seed,
            on_error="skip" if settings.on_error == "skip" else "raise",
            early_size=settings.early_size,
            early_epochs=round(settings.early_share * settings.epochs),
        )
        self.steps_per_epoch = len(self.people) // settings.batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"--batch-size is {settings.batch_size}, more than the {len(self.people)} people in the data set"
            )
        torch.manual_seed(settings.seed)
        model = make_network(settings, len(self.people.skeleton))
        initialize_(model, settings.init, torch.zeros(1, 3, settings.input_size, settings.input_size))
        if settings.weights is not None:
            start = load_checkpoint(settings.weights)
            theirs, ours = resolve_skeleton(start.skeleton), self.people.skeleton
            if theirs.joints != ours.joints:
                which = "; their joints differ" if theirs.name == ours.name else ""
                raise UserError(
                    f"--weights {settings.weights} predicts the {theirs.name!r} skeleton, and data set "
                    f"{settings.dataset} has {ours.name!r}{which}"
                )
            load_weights(model, start.weights, settings.weights)
        if settings.activation_checkpointing:
            checkpoint_activations_(model)
        self.config = model.config
        self.model: nn.Module = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.corrupt: set[int] = set()

    def optimizer(self) -> torch.optim.Optimizer:
        """RMSProp as the paper's code sets it: alpha 0.99, epsilon 1e-8."""
        s = self.settings
        return torch.optim.RMSprop(
            self.model.parameters(),
            lr=torch.tensor(s.lr, device=self.device) if s.cuda_graph else s.lr,
            alpha=0.99,
            eps=1e-8,
            weight_decay=s.weight_decay,
            foreach=True,
            capturable=s.cuda_graph,
        )

    def learning_rate(self, step: int, total: int) -> float:
        """As the settings say."""
        s = self.settings
        return learning_rate(step, total, base=s.lr, schedule=s.schedule, warmup=s.warmup)

    def batches(self, first: int, last: int) -> Iterator[dict[str, Tensor]]:
        """Batches in an order that (seed, step) decides; corrupt images are named once."""
        s = self.settings
        workers = loader_workers(s.workers, self.device)
        sampler = EpochBatchSampler(
            len(self.people), s.batch_size, s.seed, first, last, rank=distributed.rank(), ranks=distributed.size()
        )
        loader = DataLoader(
            self.data,
            batch_sampler=sampler,
            num_workers=workers,
            worker_init_fn=worker_init,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if workers else None,
            generator=torch.Generator().manual_seed(s.seed),  # its own: the default one belongs to the network
        )
        try:
            for batch in loader:
                self._name_corrupt(batch)
                yield batch
        except UserError as error:  # from a worker it carries that process's traceback; the sentence is its last line
            raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from None

    def _name_corrupt(self, batch: dict[str, Tensor]) -> None:
        for index in batch["index"][~batch["valid"]].tolist():
            if index not in self.corrupt:
                self.corrupt.add(index)
                print(
                    f"left out: {self.people.image_name(index)} cannot be read ({len(self.corrupt)} so far)",
                    flush=True,
                )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        """Sum over the stacks of the mean squared error (paper, 3.1)."""
        move = {k: batch[k].to(self.device, non_blocking=True) for k in ("image", "joints", "weight")}
        images = normalize(move["image"]).contiguous(memory_format=torch.channels_last)
        low = self.settings.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            maps = self.model(images)
        loss = torch.stack(
            [ops.heatmap_loss(m, move["joints"], move["weight"], sigma=self.settings.sigma) for m in maps]
        ).sum()
        return loss, accuracy(maps[-1].detach(), move["joints"], move["weight"]), len(images)

    def validate(self, model: nn.Module, epoch: int) -> dict[str, Any]:
        """Single scale, no flip, pictures of the epoch's size: quick, and enough to watch a run."""
        s = self.settings
        score, _ = evaluate_pose(
            model,
            self.held_out,
            self.data.size(epoch),
            flip=False,
            batch_size=max(32, s.batch_size),
            device=self.device,
            precision=s.precision,
            on_error="skip" if s.on_error == "skip" else "raise",
        )
        return score.as_dict()

    def draw(self, model: nn.Module, path: Path, epoch: int) -> None:
        """Predictions on the first validation people, seen at the epoch's size."""

        s = self.settings
        some = FirstPeople(self.held_out, PICTURES)
        _, predictions = evaluate_pose(
            model,
            some,
            self.data.size(epoch),
            flip=False,
            batch_size=PICTURES,
            device=self.device,
            precision=s.precision,
        )
        skeleton = self.people.skeleton
        cells = [
            draw_pose(some.image(i), predictions[i, :, :2], predictions[i, :, 2], skeleton) for i in range(len(some))
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, contact_sheet(cells, columns=4))

    def checkpoint(self, weights: dict[str, Tensor]) -> Checkpoint:
        """Network configuration, weights, skeleton (whole, where it came with the data) and input size."""
        return Checkpoint(
            model=self.config,
            weights=weights,
            skeleton=self.people.skeleton.as_value(),
            input_size=self.settings.input_size,
        )


def cached(people: PeopleSource, settings: PoseConfig, augmentation: Augmentation | None) -> CachedSource:
    """The same people with their pictures decoded once, before loader processes start."""
    kept = CachedSource(people, augmentation=augmentation, input_size=settings.input_size)
    if kept.failures and settings.on_error == "raise":
        raise UserError(next(iter(kept.failures.values())))
    return kept


def accuracy(maps: Tensor, joints: Tensor, weight: Tensor) -> Tensor:
    """Share of labeled joints whose maximum lies within a twentieth of the map's side: a training indicator."""
    with torch.no_grad():
        coords, _ = ops.heatmap_argmax(maps)
        close = (coords - joints).square().sum(2).sqrt() <= maps.shape[-1] / 20
        counted = weight > 0
        return (close & counted).sum() / counted.sum().clamp_min(1)
