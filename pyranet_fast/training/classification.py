"""Classifier training on small images: data, network, loss, validation and images of `Trainer`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import CLASSIFICATION, Checkpoint
from ..data.classification import (
    LabeledImages,
    augment,
    load_cifar10,
    load_shapes,
    normalize_by_channel,
    sample_augmentation,
)
from ..data.crops import EpochBatchSampler
from ..data.image_io import write_image
from ..errors import UserError
from ..evaluation.report import Row
from ..models import classifier
from ..nn.batch_statistics import synchronize_batch_norms_
from ..nn.checkpointing import checkpoint_activations_
from ..nn.init import initialize_
from ..visualization import contact_sheet
from . import distributed
from .config import ClassifierConfig
from .report import Example, Findings

PICTURES = 40
EXAMPLES = 12  # of each kind in the report


def _published(name: str, error: float, note: str) -> Row:
    return Row(name, "accuracy", "CIFAR-10 test", round(100 - error, 2), published=True, note=note)


_PYRAMIDS = "Yang et al., ICCV 2017, table 3"
_QUOTED = f"as quoted by {_PYRAMIDS}"
PUBLISHED = (
    _published("wrn-28-10", 4.17, _QUOTED),
    _published("wrn-28-9-pyramid", 3.82, _PYRAMIDS),
    _published("wrn-28-10-pyramid", 3.67, _PYRAMIDS),
    _published("resnext-29-8x64d", 3.65, _QUOTED),
    _published("resnext-29-16x64d", 3.58, _QUOTED),
    _published("resnext-29-8x64d-pyramid", 3.39, _PYRAMIDS),
    _published("resnext-29-16x64d-pyramid", 3.30, _PYRAMIDS),
)
"""Accuracy in percent, 100 - the published error, by the names that ``--model`` takes."""


def open_images(dataset: str, root: str | None, split: str) -> LabeledImages:
    """Open the ``"train"`` or ``"test"`` split of a classification dataset.

    Raises:
        UserError: unknown name, or missing or corrupt data.
    """
    if dataset == "demo":
        return load_shapes(split)
    if dataset == "cifar10":
        return load_cifar10(root, split)
    raise UserError(f"dataset must be demo or cifar10, got {dataset!r}")


class ClassificationTask:
    """Classification task of `trainer.Trainer`.

    All images are uint8 in device memory, where batches are built.

    Args:
        config: options of data, network and training.
        device: device of images and network.

    Raises:
        UserError: the data cannot be read, or the options are inconsistent.
    """

    kind = CLASSIFICATION

    def __init__(self, config: ClassifierConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.data = open_images(config.dataset, config.root, "train")
        self.held_out = open_images(config.dataset, config.root, "test")
        if self.data.classes != self.held_out.classes:
            raise UserError("the training and the test images have different classes")
        self.steps_per_epoch = len(self.data) // config.batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"--batch-size must be at most the number of training images, {len(self.data)}, got {config.batch_size}"
            )
        torch.manual_seed(config.seed)
        try:
            model = classifier(config.model, classes=len(self.data.classes))
        except ValueError as error:
            raise UserError(f"the network cannot be built from these flags: {error}") from error
        if config.init != "published":
            initialize_(model, config.init, torch.zeros(1, *self.data.images.shape[1:]))
        if config.activation_checkpointing:
            checkpoint_activations_(model)
        if config.sync_batchnorm:
            synchronize_batch_norms_(model)
        self.architecture = model.config
        self.model: nn.Module = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._chances: Tensor | None = None  # (N, classes) of the last validation
        self._images, self._labels = self.data.images.to(device), self.data.labels.to(device)

    def optimizer(self) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum, as in both papers."""
        c = self.config
        return torch.optim.SGD(
            self.model.parameters(),
            lr=c.lr,
            momentum=c.momentum,
            nesterov=True,
            weight_decay=c.weight_decay,
            foreach=True,
        )

    def batches(self, first: int, last: int) -> Iterator[dict[str, Tensor]]:
        """``image`` (N, 3, H, W) uint8 and ``label`` (N,), in an order determined by (seed, step)."""
        c = self.config
        sampler = EpochBatchSampler(
            len(self.data), c.batch_size, c.seed, first, last, rank=distributed.rank(), ranks=distributed.world_size()
        )
        for keys in sampler:
            epochs, indices = zip(*keys, strict=True)
            chosen = torch.tensor(indices, device=self.device)
            images = self._images[chosen]
            if c.augment:
                images = augment(images, sample_augmentation(c.seed, epochs, indices))
            yield {"image": images, "label": self._labels[chosen]}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        """Return cross entropy, accuracy, and number of images."""
        scores = self._scores(self.model, batch["image"])
        right = (scores.detach().argmax(1) == batch["label"]).float().mean()
        return F.cross_entropy(scores, batch["label"]), right, len(scores)

    def trial_batch(self, samples: int) -> dict[str, Tensor]:
        """Gray images of the first class."""
        image = torch.full((samples, *self.data.images.shape[1:]), 128, dtype=torch.uint8, device=self.device)
        return {"image": image, "label": torch.zeros(samples, dtype=torch.long, device=self.device)}

    def _scores(self, model: nn.Module, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 to class scores (N, classes) in float32."""
        x = normalize_by_channel(images.to(self.device), self.data.mean, self.data.std)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"):
            return model(x).float()

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return class scores of (N, 3, H, W) uint8 images, without augmentation, on the CPU."""
        size = max(250, self.config.batch_size)
        with torch.no_grad():
            return torch.cat([self._scores(model, part).cpu() for part in images.split(size)])

    def validate(self, model: nn.Module, epoch: int) -> dict[str, Any]:
        """Return accuracy and error on all test images, in percent; ``columns``: accuracy by class."""
        labels = self.held_out.labels
        self._chances = self.predict(model, self.held_out.images).softmax(1)
        right = self._chances.argmax(1) == labels
        columns = {
            name: 100 * float(right[labels == number].float().mean())
            for number, name in enumerate(self.held_out.classes)
            if (labels == number).any()
        }
        mean = 100 * int(right.sum()) / len(right)
        return {"metric": "accuracy", "mean": mean, "error": 100 - mean, "columns": columns}

    def draw(self, model: nn.Module, path: Path, epoch: int) -> None:
        """Draw the first test images with the predicted label, and the true one if it differs."""
        images, names = self.held_out.images[:PICTURES], self.held_out.classes
        predicted = self.predict(model, images).argmax(1).tolist()
        captions = [
            names[p] if p == right else f"{names[p]}, not {names[right]}"
            for p, right in zip(predicted, self.held_out.labels[:PICTURES].tolist(), strict=True)
        ]
        cells = [image.permute(1, 2, 0).numpy() for image in images]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, contact_sheet(cells, columns=8, cell=128, captions=captions))

    def facts(self) -> dict[str, str]:
        """Describe data and network as text."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            "training images": f"{len(self.data)}, {self.data.name}",
            "test images": f"{len(self.held_out)}, {self.held_out.name}",
            "network": self.config.model,
            "parameters": f"{parameters / 1e6:.2f} M",
        }

    def findings(self, results: dict[str, Any]) -> Findings:
        """Return accuracy by class with published means, and the most confident correct and wrong predictions."""
        names = self.held_out.classes
        if self._chances is None:
            return Findings()
        ours = Row("here", results["metric"], self.held_out.name, results["mean"], results["columns"])
        published = PUBLISHED if self.config.dataset == "cifar10" else ()
        chances, answers = self._chances.max(1)
        right = answers == self.held_out.labels
        order = chances.argsort(stable=True).tolist()
        chosen = {
            "best": [index for index in reversed(order) if right[index]][:EXAMPLES],
            "typical": order[max(0, len(order) // 2 - EXAMPLES // 2) :][:EXAMPLES],
            "worst": [index for index in reversed(order) if not right[index]][:EXAMPLES],
        }
        examples = []
        for group, indices in chosen.items():
            for index in indices:
                picture = self.held_out.images[index].permute(1, 2, 0).numpy()
                caption = f"{names[answers[index]]}, {chances[index]:.0%}"
                if not right[index]:
                    caption += f"; it is {names[self.held_out.labels[index]]}"
                examples.append(Example(group, np.kron(picture, np.ones((4, 4, 1), np.uint8)), caption))
        return Findings([ours, *published], tuple(results["columns"]), examples, convention="no test-time augmentation")

    def checkpoint(self, weights: dict[str, Tensor]) -> Checkpoint:
        """Return network configuration, weights, classes and normalization."""
        return Checkpoint(
            model=self.architecture,
            weights=weights,
            skeleton="",
            input_size=self.data.images.shape[-1],
            kind=self.kind,
            images={
                "dataset": self.config.dataset,
                "classes": list(self.data.classes),
                "mean": list(self.data.mean),
                "std": list(self.data.std),
            },
        )

    def compare_data(self, checkpoint: Checkpoint, source: str | Path) -> None:
        """Raise UserError if the checkpoint to resume has other classes."""
        then, now = list(checkpoint.images.get("classes", [])), list(self.data.classes)
        if then != now:
            raise UserError(
                f"checkpoint {source} was trained on other classes than {self.config.dataset} has now: "
                f"{', '.join(map(str, then))} then, {', '.join(now)} now; use the images of that training, or another "
                "--output"
            )
