"""Training a PyraNet on people: the data, network, loss, validation and pictures of `Trainer`."""

from __future__ import annotations

import logging
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
from ..keypoints import Skeleton, resolve_skeleton
from ..models import PyraNet
from ..models.zoo import load_checkpoint, load_weights
from ..nn.batch_statistics import synchronize_batch_norms_
from ..nn.checkpointing import checkpoint_activations_
from ..nn.init import initialize_
from ..visualization import contact_sheet, draw_pose
from . import distributed
from .config import PoseConfig

logger = logging.getLogger("pyranet_fast")

PICTURES = 12


def make_network(config: PoseConfig, joints: int) -> PyraNet:
    """The network that the config asks for; UserError where its options do not fit together."""
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
    """What `trainer.Trainer` trains for poses: people, a PyraNet, heat-map loss, PCK.

    Args:
        config: which people, which network, and how.
        device: of the network.

    Raises:
        UserError: the data cannot be read, or the options do not fit together.
    """

    kind = POSE

    def __init__(self, config: PoseConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        if config.cuda_graph and (device.type != "cuda" or distributed.world_size() > 1):
            got = f"{distributed.world_size()} processes" if distributed.world_size() > 1 else f"device {device}"
            raise UserError(f"--cuda-graph was given for {got}; one process on an NVIDIA GPU is accepted")
        check_values_a_channel(config)
        augmentation = Augmentation(
            scale=config.scale_noise,
            rotation=config.rotation_noise,
            rotation_probability=config.rotation_probability,
            color=config.color_noise,
        )
        people, held_out = (open_dataset(config.dataset, config.root, split) for split in ("train", "val"))
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
        )
        self.steps_per_epoch = len(self.people) // config.batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"--batch-size is {config.batch_size}, more than the {len(self.people)} people in the data set"
            )
        network = initial_network(config, self.people.skeleton)
        self.architecture = network.config
        self.model: nn.Module = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.corrupt: set[int] = set()

    def optimizer(self) -> torch.optim.Optimizer:
        """RMSProp as the paper's code sets it: alpha 0.99, epsilon 1e-8."""
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
        """Batches in an order that (seed, step) decides; corrupt images are named once."""
        c = self.config
        workers = loader_workers(c.workers, self.device)
        sampler = EpochBatchSampler(
            len(self.people), c.batch_size, c.seed, first, last, rank=distributed.rank(), ranks=distributed.world_size()
        )
        loader = DataLoader(
            self.data,
            batch_sampler=sampler,
            num_workers=workers,
            worker_init_fn=worker_init,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if workers else None,
            generator=torch.Generator().manual_seed(c.seed),  # its own: the default one belongs to the network
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
                name = self.people.image_name(index)
                logger.warning(f"left out: {name} cannot be read ({len(self.corrupt)} so far)")

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

    def validate(self, model: nn.Module, epoch: int) -> dict[str, Any]:
        """Single scale, no flip, pictures of the epoch's size: quick, and enough to watch a run."""
        c = self.config
        score, _ = evaluate_pose(
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
        """Predictions on the first validation people, seen at the epoch's size."""
        c = self.config
        some = FirstPeople(self.held_out, PICTURES)
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

    def checkpoint(self, weights: dict[str, Tensor]) -> Checkpoint:
        """Network configuration, weights, skeleton (whole, where it came with the data) and input size."""
        return Checkpoint(
            model=self.architecture,
            weights=weights,
            skeleton=self.people.skeleton.as_value(),
            input_size=self.config.input_size,
        )


def check_values_a_channel(config: PoseConfig) -> None:
    """UserError where a batch norm would see one value a channel: one sample whose innermost maps have one pixel."""
    processes = 1 if config.sync_batchnorm else distributed.world_size()
    size = min(config.input_size, config.early_size or config.input_size)
    if config.batch_size // processes > 1 or size // (4 * 2**config.depth) > 1:
        return
    share = f" for {processes} processes, 1 for each" if processes > 1 else ""
    others = ", --sync-batchnorm" if processes > 1 else ""
    flag = "--input-size" if size == config.input_size else "--early-size"
    raise UserError(
        f"--batch-size is {config.batch_size}{share}; with {flag} {size} and --depth {config.depth} the innermost maps "
        f"have one pixel, and a batch norm needs two values a channel: {2 * processes} or more is accepted, a larger "
        f"{flag}, a smaller --depth{others}"
    )


def prepare_people(people: PeopleSource, config: PoseConfig, augmentation: Augmentation | None) -> PeopleSource:
    """The people that can be read where ``--on-error`` says so, with their pictures in memory where ``--cache`` does.

    Args:
        people: of one split.
        config: its ``on_error``, ``cache`` and ``input_size``.
        augmentation: what the kept pictures have to reach for; None: nothing.
    """
    if config.on_error == "skip":
        people = with_images(people)
    if not config.cache:
        return people
    # Decoded once, before loader processes start.
    kept = CachedSource(people, augmentation=augmentation, input_size=config.input_size)
    if kept.failures and config.on_error == "raise":
        raise UserError(next(iter(kept.failures.values())))
    return kept


def initial_network(config: PoseConfig, skeleton: Skeleton) -> PyraNet:
    """The network as a training starts: initialized by the seed, or with the weights of ``--weights``."""
    torch.manual_seed(config.seed)
    model = make_network(config, len(skeleton))
    initialize_(model, config.init, torch.zeros(1, 3, config.input_size, config.input_size))
    if config.weights is not None:
        start = load_checkpoint(config.weights)
        theirs = resolve_skeleton(start.skeleton)
        if theirs.joints != skeleton.joints:
            which = "; their joints differ" if theirs.name == skeleton.name else ""
            raise UserError(
                f"--weights {config.weights} predicts the {theirs.name!r} skeleton, and data set "
                f"{config.dataset} has {skeleton.name!r}{which}"
            )
        load_weights(model, start.weights, config.weights)
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
    """Share of labeled joints whose maximum lies within a twentieth of the map's side: a training indicator."""
    with torch.no_grad():
        coords, _ = ops.heatmap_argmax(maps)
        close = (coords - joints).square().sum(2).sqrt() <= maps.shape[-1] / 20
        counted = weight > 0
        return (close & counted).sum() / counted.sum().clamp_min(1)
