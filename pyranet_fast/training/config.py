"""Every setting of a training run, once: flags, their help and the checkpoint's record come from here."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ..errors import UserError
from ..nn.init import INITIALIZERS

TORCHRUN = (
    "torchrun --nproc-per-node=N -m pyranet_fast.train… trains by N processes, on CUDA one a GPU: each takes its share "
    "of --batch-size, gradients are averaged, batch norms use the statistics of their own share."
)
"""What `--help` says about several processes."""


def _option(default: Any, text: str, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, **more})


class RunConfig(Protocol):
    """What `training.loop` reads of any task's settings; see `Settings` for their meaning."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def output(self) -> str: ...
    @property
    def epochs(self) -> int: ...
    @property
    def max_steps(self) -> int | None: ...
    @property
    def ema(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def resume(self) -> str: ...
    @property
    def compile(self) -> bool: ...
    @property
    def cuda_graph(self) -> bool: ...
    @property
    def validate_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...


@dataclass(frozen=True)
class PoseConfig:
    """Settings of `python -m pyranet_fast.train`; the defaults are the paper's recipe (section 5.1)."""

    dataset: str = _option(
        "demo",
        "demo (synthetic people), lsp, lsp+lspet, mpii, mpii+lsp, your own: coco:TRAIN.json[,VAL.json], or any of them "
        "in one file: packed:FILE, written by data.pack",
    )
    root: str | None = _option(
        None, "folder that holds lsp_dataset/, lspet_dataset/, mpii/; or the images of your own; none for packed:FILE"
    )
    output: str = _option("output", "folder for checkpoints, logs, curves and pictures")
    stacks: int = _option(8, "hourglass stacks")
    features: int = _option(256, "channels of the hourglass; the stem has features/4 and features/2")
    variant: str = _option("B*", "residual module", choices=("plain", "wide", "A", "B", "B*", "C", "D"))
    depth: int = _option(4, "hourglass levels")
    levels: int = _option(4, "pyramid levels C of a PRM")
    base_width: int = _option(9, "a PRM's pyramid has 1/this of its channels, rounded down")
    pool_windows: str = _option(
        "channel",
        "fractional pooling windows: one draw per sample and channel (the paper), or shared by a sample's channels, "
        "or by the batch (faster)",
        choices=("channel", "sample", "batch"),
    )
    variance_control: bool = _option(
        True, "BN-ReLU-1x1 instead of the identity skip before two branches of the hourglass are added (section 4.2)"
    )
    input_size: int = _option(256, "side of the square network input, pixels")
    early_size: int | None = _option(None, "input size of the early epochs: cheaper pictures first, see --early-share")
    early_share: float = _option(0.5, "share of the epochs that --early-size is used for")
    batch_size: int = _option(16, "people a step, of all processes together")
    epochs: int = _option(200, "passes over the training set")
    max_steps: int | None = _option(None, "stop after this many steps, whatever the epochs say")
    lr: float = _option(7e-4, "RMSProp learning rate")
    schedule: str = _option(
        "step", "÷10 at 75 %% and at 85 %% of the run (the paper), or cosine to 0", choices=("step", "cosine")
    )
    warmup: int = _option(0, "steps over which the learning rate rises from 0")
    weight_decay: float = _option(0.0, "RMSProp weight decay")
    ema: float = _option(0.0, "decay of the moving average of the weights that is saved for prediction; 0: none")
    weights: str | None = _option(
        None, "start from the weights of this checkpoint, with a fresh optimizer and step 0: fine-tuning"
    )
    init: str = _option(
        "torch",
        "weight initialization: the paper's equation 15, Xavier (Glorot), Kaiming (MSR, He), or PyTorch's own",
        choices=tuple(INITIALIZERS),
    )
    sigma: float = _option(1.0, "standard deviation of the target Gaussians, map pixels")
    scale_noise: float = _option(0.25, "augmentation: standard deviation of the scale, cut at 1 ± this")
    rotation_noise: float = _option(
        30.0, "augmentation: standard deviation of the rotation, degrees, cut at twice this"
    )
    rotation_probability: float = _option(0.4, "augmentation: share of samples that are rotated")
    colour_noise: float = _option(0.2, "augmentation: each color channel times U(1 - this, 1 + this)")
    precision: str = _option("fp32", "arithmetic of the network; weights stay float32", choices=("fp32", "bf16"))
    device: str = _option("auto", "auto, cpu, cuda or cuda:N; under torchrun cuda is the GPU of LOCAL_RANK")
    workers: int = _option(
        -1,
        "loader processes of each training process; 0: load in the training process; -1: on a GPU its cores - 1, at "
        "most 8, and on the CPU 0",
    )
    cache: bool = _option(True, "keep decoded people in memory (about 100 kB each)")
    on_error: str = _option(
        "raise", "a corrupt image stops the run, or is named, counted and left out", choices=("raise", "skip")
    )
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
    cuda_graph: bool = _option(
        False,
        "record the whole step once as a CUDA graph and replay it: no launches; on one NVIDIA GPU, without --compile",
    )

    def __post_init__(self) -> None:
        for name in (
            "stacks",
            "features",
            "depth",
            "levels",
            "base_width",
            "input_size",
            "batch_size",
            "epochs",
            "validate_every",
        ):
            if getattr(self, name) < 1:
                raise UserError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; a whole number above 0 is accepted"
                )
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"--max-steps is {self.max_steps}; a whole number above 0 is accepted")
        for name in ("lr", "sigma"):
            if not 0 < getattr(self, name) < 1e6:
                raise UserError(f"--{name} is {getattr(self, name)}; a number above 0 is accepted")
        for name in ("warmup", "save_every", "weight_decay", "rotation_noise", "seed"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; 0 or more is accepted")
        if not 0 <= self.early_share <= 1:
            raise UserError(f"--early-share is {self.early_share}; a number in [0, 1] is accepted")
        for name in ("ema", "scale_noise", "colour_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; a number in [0, 1) is accepted")
        if not 0 <= self.rotation_probability <= 1:
            raise UserError(f"--rotation-probability is {self.rotation_probability}; a number in [0, 1] is accepted")
        if self.workers < -1 or self.workers > 256:
            raise UserError(f"--workers is {self.workers}; -1 to 256 is accepted")
        if self.cuda_graph and self.compile:
            raise UserError(
                "--cuda-graph was given with --compile, whose code may wait for the device, which a graph cannot; "
                "one of them is accepted"
            )
        stride = 4 * 2**self.depth
        for flag, side in (("--input-size", self.input_size), ("--early-size", self.early_size or stride)):
            if side < 1 or side % stride:
                raise UserError(f"{flag} is {side}; with --depth {self.depth} a multiple of {stride} is accepted")


def add_arguments(parser: argparse.ArgumentParser, settings: type = PoseConfig) -> None:
    """One flag for every field of a dataclass of settings."""
    types = {"int": int, "float": float, "str": str, "int | None": int, "str | None": str}
    for field in dataclasses.fields(settings):
        flag = "--" + field.name.replace("_", "-")
        text = str(field.metadata["help"])
        if field.type == "bool":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default, help=text)
            continue
        parser.add_argument(
            flag,
            type=types[str(field.type)],
            default=field.default,
            choices=field.metadata.get("choices"),
            help=text + (" (default: %(default)s)" if field.default is not None else ""),
        )


DATASETS = ("demo", "cifar10")
EPOCHS = {"wrn": 200, "resnext": 300}
"""How long the published networks were trained, by the first part of their names."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of `python -m pyranet_fast.train_classifier`; the defaults are the published recipes."""

    dataset: str = _option("demo", "demo (colored shapes) or cifar10", choices=DATASETS)
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
