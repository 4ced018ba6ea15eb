"""Settings of a classification run: flags, help and the checkpoint's record, as `settings` does for poses."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from .settings import _option

DATASETS = ("demo", "cifar10")
EPOCHS = {"wrn": 200, "resnext": 300}
"""How long the published networks were trained, by the first part of their names."""


@dataclass(frozen=True)
class ClassifySettings:
    """Settings of `python -m pyranet_fast.train_classifier`; the defaults are the published recipes."""

    dataset: str = _option("demo", "demo (coloured shapes) or cifar10", choices=DATASETS)
    root: str | None = _option(None, "folder that holds cifar-10-batches-py/")
    output: str = _option("output", "folder for checkpoints, logs, curves and pictures")
    model: str = _option(
        "wrn-28-10-pyramid",
        "wrn-DEPTH-WIDTH or resnext-DEPTH-CARDINALITYxWIDTHd, with or without -pyramid",
    )
    batch_size: int = _option(128, "images a step, of all processes together")
    epochs: int = _option(0, "passes over the training set; 0: as published, 200 for wrn and 300 for resnext")
    max_steps: int | None = _option(None, "stop after this many steps, whatever the epochs say")
    lr: float = _option(0.1, "learning rate of SGD with Nesterov momentum")
    schedule: str = _option(
        "auto",
        "wrn: ×0.2 at 30, 60 and 80 %% of the run; resnext: ÷10 at 50 and 75 %%; cosine to 0; auto: the model's own",
        choices=("auto", "wrn", "resnext", "cosine"),
    )
    warmup: int = _option(0, "steps over which the learning rate rises from 0")
    momentum: float = _option(0.9, "Nesterov momentum")
    weight_decay: float = _option(5e-4, "weight decay, of all parameters")
    ema: float = _option(0.0, "decay of the moving average of the weights that is saved for prediction; 0: none")
    init: str = _option(
        "published",
        "weight initialization: as the network's authors did (He's rule with the fan-out), or as in train",
        choices=("published", "paper", "xavier", "kaiming"),
    )
    augment: bool = _option(True, "random crops of images padded by 4 pixels, and mirroring")
    precision: str = _option("fp32", "arithmetic of the network; weights stay float32", choices=("fp32", "bf16"))
    device: str = _option("auto", "auto, cpu, cuda or cuda:N; under torchrun cuda is the GPU of LOCAL_RANK")
    validate_every: int = _option(1, "epochs between validations")
    save_every: int = _option(0, "also save a checkpoint every so many steps; 0: at the end of each epoch only")
    seed: int = _option(0, "decides weights, order, augmentation and pooling windows")
    resume: str = _option(
        "auto", "auto: go on from OUTPUT/last.pt if it is there; none: start anew; or a checkpoint's path"
    )
    activation_checkpointing: bool = _option(
        False,
        "keep only what enters residual units and make the rest again in the backward: about a third of the memory for "
        "one more forward pass a step, and the same weights bit for bit",
    )
    compile: bool = _option(False, "torch.compile the network")

    @property
    def cuda_graph(self) -> bool:
        """Its SGD reads the learning rate on the host, which a graph would not see change."""
        return False

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            raise UserError(f"--dataset is {self.dataset!r}; accepted are {', '.join(DATASETS)}")
        family = self.model.split("-")[0]
        # What is recorded is what is done: "auto" and 0 stand for the model's published recipe.
        if self.schedule == "auto":
            object.__setattr__(self, "schedule", family if family in EPOCHS else "wrn")
        if self.epochs == 0:
            object.__setattr__(self, "epochs", EPOCHS.get(family, EPOCHS["wrn"]))
        if self.batch_size < 2:
            raise UserError(f"--batch-size is {self.batch_size}; 2 or more is accepted, for batch norm")
        for name in ("epochs", "max_steps", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}; a whole number above 0 is accepted")
        if not 0 < self.lr < 1e6:
            raise UserError(f"--lr is {self.lr}; a number above 0 is accepted")
        for name in ("warmup", "save_every", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; 0 or more is accepted")
        if not 0 <= self.ema < 1:
            raise UserError(f"--ema is {self.ema}; a number in [0, 1) is accepted")
        if not 0 < self.momentum < 1:
            raise UserError(f"--momentum is {self.momentum}; a number between 0 and 1 is accepted")
