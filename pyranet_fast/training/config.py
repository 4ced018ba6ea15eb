"""Training options, each declared once: flag, help, limits, and record in checkpoints."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import UserError
from ..models.precision import AUTO
from ..models.precision import CHOICES as PRECISION_CHOICES
from ..nn.init import INITIALIZERS

TORCHRUN = (
    "torchrun --nproc-per-node=N -m pyranet_fast.train… trains with N processes, one per GPU on CUDA. --batch-size is "
    "split among them and gradients are averaged; batch norms use the statistics of their own part, or of the entire "
    "batch with --sync-batchnorm."
)
"""The `--help` text on distributed training."""

ConfigT = TypeVar("ConfigT", bound="RunConfig")


@dataclass(frozen=True)
class _Limits:
    """The numbers that an option accepts. NaN is in none of them."""

    expected: str
    accept: Callable[[float], bool]


_COUNT = _Limits("a positive integer", lambda value: value >= 1)
_POSITIVE = _Limits("a number above 0 and below 1,000,000", lambda value: 0 < value < 1e6)
_NOT_NEGATIVE = _Limits("a finite number of at least 0", lambda value: 0 <= value < math.inf)
_SEED = _Limits("an integer from 0 to 4,294,967,295", lambda value: 0 <= value < 2**32)
_SHARE = _Limits("a number in [0, 1]", lambda value: 0 <= value <= 1)
_BELOW_1 = _Limits("a number in [0, 1)", lambda value: 0 <= value < 1)
_BETWEEN_0_AND_1 = _Limits("a number between 0 and 1", lambda value: 0 < value < 1)
_WORKERS = _Limits("an integer from -1 to 256", lambda value: -1 <= value <= 256)


def _option(
    default: Any,
    text: str,
    limits: _Limits | None = None,
    *,
    choices: tuple[str, ...] | None = None,
    free: bool = False,
    was: str | None = None,
) -> Any:
    """A field of a config.

    Args:
        default: None means "not given", which limits and choices do not look at.
        text: help, with %% for a percent sign.
        limits: the numbers it accepts.
        choices: the words it accepts.
        free: it may differ between the parts of a resumed run, since it does not change what is trained.
        was: an older name, which flags and checkpoints may still have.
    """
    about = {"help": text, "limits": limits, "choices": choices, "free": free, "was": was}
    return dataclasses.field(default=default, metadata=about)


def flag_of(name: str) -> str:
    """``--batch-size`` of ``batch_size``."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class RunConfig:
    """Options shared by all training tasks; the training loop reads no others.

    Raises:
        UserError: an option has an invalid value.
    """

    batch_size: int
    epochs: int
    lr: float
    schedule: str
    output: str = _option("output", "folder for checkpoints, logs, curves and images", free=True)
    max_steps: int | None = _option(None, "stop after this many steps, regardless of --epochs", _COUNT)
    warmup: int = _option(0, "steps of linear learning rate warmup from 0", _NOT_NEGATIVE)
    ema: float = _option(
        0.0, "decay of the exponential moving average of the weights, saved for prediction; 0: off", _BELOW_1
    )
    precision: str = _option(
        AUTO,
        "compute precision; weights stay float32. auto: the faster one on this machine, measured in a few steps at the "
        "start and kept when resuming",
        choices=PRECISION_CHOICES,
    )
    device: str = _option(
        "auto", "auto, cpu, cuda or cuda:N; under torchrun, cuda means the GPU of LOCAL_RANK", free=True
    )
    validate_every: int = _option(1, "epochs between validations", _COUNT, free=True)
    save_every: int = _option(
        0, "also save a checkpoint every N steps; 0: only at the end of each epoch", _NOT_NEGATIVE, free=True
    )
    seed: int = _option(0, "random seed of weights, sample order, augmentation and pooling windows", _SEED)
    resume: str = _option(
        "auto",
        "auto: resume from OUTPUT/last.pt if it exists; none: start over; or the path of a checkpoint",
        free=True,
    )
    activation_checkpointing: bool = _option(
        False,
        "keep only the inputs of residual units and recompute the rest in the backward pass: about a third of the "
        "memory for one more forward pass per step, and bitwise the same weights",
        free=True,
    )
    compile: bool = _option(False, "torch.compile the network", free=True)
    sync_batchnorm: bool = _option(
        False,
        "with several processes: batch norms use the statistics of the entire batch instead of their own part, and "
        "synchronize at every norm",
    )

    @property
    def cuda_graph(self) -> bool:
        """Whether the step is recorded as a CUDA graph; tasks that support it have an option of this name."""
        return False

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            _check(option, getattr(self, option.name))

    @classmethod
    def options(cls) -> list[dataclasses.Field[Any]]:
        """The fields in `--help` order: the task's own first."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        return [fields[name] for name in dict.fromkeys([*cls.__annotations__, *RunConfig.__annotations__])]

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add one flag per option; deprecated names work but are hidden."""
        types = {"int": int, "float": float, "str": str, "int | None": int, "str | None": str}
        for option in cls.options():
            flag, about, default = flag_of(option.name), option.metadata, option.default
            if option.type == "bool":
                parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=about["help"])
                continue
            kind = types[str(option.type)]
            text = about["help"] + (" (default: %(default)s)" if default is not None else "")
            parser.add_argument(flag, type=kind, default=default, choices=about["choices"], help=text)
            if about["was"]:
                old, hidden = flag_of(about["was"]), argparse.SUPPRESS
                parser.add_argument(old, dest=option.name, type=kind, default=hidden, help=hidden)

    @classmethod
    def from_arguments(cls: type[ConfigT], arguments: argparse.Namespace) -> ConfigT:
        """Return the config of parsed flags."""
        return cls(**{option.name: getattr(arguments, option.name) for option in cls.options()})

    def conflicts(self, recorded: dict[str, Any]) -> list[str]:
        """Return one phrase per option that affects training and differs from a checkpoint's record."""
        found = []
        for option in sorted(self.options(), key=lambda option: option.name):
            then = recorded.get(option.name, recorded.get(option.metadata["was"] or option.name, dataclasses.MISSING))
            now = getattr(self, option.name)
            if now == AUTO and option.name == "precision":  # keeps its precision
                continue
            if not option.metadata["free"] and then is not dataclasses.MISSING and then != now:
                found.append(f"{flag_of(option.name)} {then} there, {now} here")
        return found


def _check(option: dataclasses.Field[Any], value: Any) -> None:
    limits, choices = option.metadata["limits"], option.metadata["choices"]
    if value is None:
        return
    if limits is not None and not limits.accept(value):
        raise UserError(f"{flag_of(option.name)} must be {limits.expected}, got {value}")
    if choices is not None and value not in choices:
        raise UserError(f"{flag_of(option.name)} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True)
class PoseConfig(RunConfig):
    """Options of `python -m pyranet_fast.train`; the defaults are the paper's recipe (section 5.1)."""

    dataset: str = _option(
        "demo",
        "demo (synthetic people), lsp, lsp+lspet, mpii, mpii+lsp, a mixture such as mpii*3+lsp*2+lspet (MPII people "
        "three times per epoch), your own data as coco:TRAIN.json[,VAL.json], or packed:FILE, written by data.pack",
    )
    root: str | None = _option(
        None,
        "folder that contains lsp_dataset/, lspet_dataset/, mpii/, or the images of coco:; not for packed:FILE",
        free=True,
    )
    allow_outside: bool = _option(False, "allow coco: images outside --root: absolute paths, .. and links", free=True)
    stacks: int = _option(8, "hourglass stacks", _COUNT)
    features: int = _option(256, "channels of the hourglass; the stem has features/4 and features/2", _COUNT)
    variant: str = _option("B*", "type of residual module", choices=("plain", "wide", "A", "B", "B*", "C", "D"))
    depth: int = _option(4, "hourglass levels", _COUNT)
    levels: int = _option(4, "pyramid levels C of a PRM", _COUNT)
    base_width: int = _option(9, "the pyramid of a PRM has 1/N of its channels, rounded down", _COUNT)
    pool_windows: str = _option(
        "channel",
        "random windows of fractional pooling: one per sample and channel (the paper), or shared by the channels of a "
        "sample or by the batch (faster)",
        choices=("channel", "sample", "batch"),
    )
    variance_control: bool = _option(
        True, "BN-ReLU-1x1 instead of the identity skip where two hourglass branches are added (section 4.2)"
    )
    input_size: int = _option(256, "side of the square network input, pixels", _COUNT)
    early_size: int | None = _option(None, "smaller input size for the first epochs, see --early-share")
    early_share: float = _option(0.5, "fraction of the epochs that use --early-size", _SHARE)
    batch_size: int = _option(16, "people per step, over all processes", _COUNT)
    epochs: int = _option(200, "passes over the training set", _COUNT)
    lr: float = _option(7e-4, "RMSProp learning rate", _POSITIVE)
    schedule: str = _option(
        "step", "÷10 at 75 %% and at 85 %% of the run (the paper), or cosine to 0", choices=("step", "cosine")
    )
    weight_decay: float = _option(0.0, "RMSProp weight decay", _NOT_NEGATIVE)
    weights: str | None = _option(
        None,
        "fine-tune the weights of this checkpoint, with a new optimizer and from step 0; it may have LSP's joints "
        "where the data has MPII's, and fewer stacks",
    )
    init: str = _option(
        "torch",
        "weight initialization: equation 15 of the paper, Xavier (Glorot), Kaiming (MSR, He), or PyTorch's default",
        choices=tuple(INITIALIZERS),
    )
    sigma: float = _option(1.0, "standard deviation of the target Gaussians, in score map pixels", _POSITIVE)
    scale_noise: float = _option(0.25, "augmentation: standard deviation of the scale, clipped to 1 ± this", _BELOW_1)
    rotation_noise: float = _option(
        30.0, "augmentation: standard deviation of the rotation in degrees, clipped at twice this", _NOT_NEGATIVE
    )
    rotation_probability: float = _option(0.4, "augmentation: fraction of samples to rotate", _SHARE)
    color_noise: float = _option(
        0.2, "augmentation: scale each color channel by U(1 - this, 1 + this)", _BELOW_1, was="colour_noise"
    )
    resize_share: float = _option(0.0, "augmentation: fraction of samples whose person is scaled by 0.4 to 2", _SHARE)
    turn_share: float = _option(0.0, "augmentation: fraction of samples rotated by any angle", _SHARE)
    cut_share: float = _option(
        0.0,
        "augmentation: fraction of samples whose person is truncated by the border of the image or the crop",
        _SHARE,
    )
    cover_share: float = _option(
        0.0, "augmentation: fraction of samples with up to half of the person occluded", _SHARE
    )
    empty_share: float = _option(
        0.0,
        "augmentation: fraction of samples without a person: background outside all boxes, synthetic backgrounds, "
        "fully occluded people",
        _SHARE,
    )
    absence_weight: float = _option(
        0.0,
        "loss weight of joints known to be outside the crop, whose target is zero; other joints have weight 1; 0: "
        "ignore them",
        _NOT_NEGATIVE,
    )
    workers: int = _option(
        -1,
        "loader processes per training process; 0: load in the training process; -1: on a GPU its cores - 1, at most "
        "8, and 0 on the CPU",
        _WORKERS,
        free=True,
    )
    cache: bool = _option(True, "keep decoded people in memory (about 100 kB each)", free=True)
    on_error: str = _option(
        "raise",
        "raise: stop at a corrupt image; skip: report it and leave it out",
        choices=("raise", "skip"),
        free=True,
    )
    cuda_graph: bool = _option(
        False,
        "record the entire step once as a CUDA graph and replay it; on one NVIDIA GPU, without --compile",
        free=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cuda_graph and self.compile:
            raise UserError(
                "expected --cuda-graph or --compile, got both: compiled code may synchronize with the device, which a "
                "CUDA graph cannot capture"
            )
        stride = 4 * 2**self.depth
        for name in ("input_size", "early_size"):
            side = getattr(self, name)
            if side is not None and (side < 0 or side % stride):
                raise UserError(f"{flag_of(name)} must be a multiple of {stride} with --depth {self.depth}, got {side}")


EPOCHS = {"wrn": 200, "resnext": 300}
"""Epochs of the published networks, by the first part of their names."""


@dataclass(frozen=True)
class ClassifierConfig(RunConfig):
    """Options of `python -m pyranet_fast.train_classifier`; the defaults are the published recipes.

    There is no ``cuda_graph``: its SGD reads the learning rate on the host, which a graph would not see change.
    """

    dataset: str = _option("demo", "demo (synthetic colored shapes) or cifar10", choices=("demo", "cifar10"))
    root: str | None = _option(None, "folder that contains cifar-10-batches-py/", free=True)
    model: str = _option(
        "wrn-28-10-pyramid",
        "wrn-DEPTH-WIDTH or resnext-DEPTH-CARDINALITYxWIDTHd, with or without -pyramid",
    )
    batch_size: int = _option(128, "images per step, over all processes", _COUNT)
    epochs: int = _option(0, "passes over the training set; 0: as published, 200 for wrn and 300 for resnext", _COUNT)
    lr: float = _option(0.1, "learning rate of SGD with Nesterov momentum", _POSITIVE)
    schedule: str = _option(
        "auto",
        "wrn: ×0.2 at 30, 60 and 80 %% of the run; resnext: ÷10 at 50 and 75 %%; cosine to 0; auto: that of the model",
        choices=("auto", "wrn", "resnext", "cosine"),
    )
    momentum: float = _option(0.9, "Nesterov momentum", _BETWEEN_0_AND_1)
    weight_decay: float = _option(5e-4, "weight decay of all parameters", _NOT_NEGATIVE)
    init: str = _option(
        "published",
        "weight initialization: that of the network's authors (He's with fan-out), or as in train",
        choices=("published", "paper", "xavier", "kaiming"),
    )
    augment: bool = _option(True, "random crops of images padded by 4 pixels, and random mirroring")

    def __post_init__(self) -> None:
        # What is recorded is what is done: "auto" and 0 stand for the model's published recipe.
        family = self.model.split("-")[0]
        if self.schedule == "auto":
            object.__setattr__(self, "schedule", family if family in EPOCHS else "wrn")
        if self.epochs == 0:
            object.__setattr__(self, "epochs", EPOCHS.get(family, EPOCHS["wrn"]))
        super().__post_init__()
