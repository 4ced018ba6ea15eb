"""The options of a training, each declared once: its flag, help, limits, and what a checkpoint records of it."""

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
    "torchrun --nproc-per-node=N -m pyranet_fast.train… trains by N processes, on CUDA one a GPU: each takes its share "
    "of --batch-size, gradients are averaged, batch norms use the statistics of their own share, or with "
    "--sync-batchnorm those of the whole batch."
)
"""What `--help` says about several processes."""

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
    """Options of every training, whatever the task; the loop reads nothing else.

    Raises:
        UserError: an option has a value that it does not accept.
    """

    batch_size: int
    epochs: int
    lr: float
    schedule: str
    output: str = _option("output", "folder for checkpoints, logs, curves and pictures", free=True)
    max_steps: int | None = _option(None, "stop after this many steps, whatever the epochs say", _COUNT)
    warmup: int = _option(0, "steps over which the learning rate rises from 0", _NOT_NEGATIVE)
    ema: float = _option(
        0.0, "decay of the moving average of the weights that is saved for prediction; 0: none", _BELOW_1
    )
    precision: str = _option(
        AUTO,
        "arithmetic of the network, whose weights stay float32; auto: the faster one here, found by a few steps at the "
        "start and kept by a resumed run",
        choices=PRECISION_CHOICES,
    )
    device: str = _option("auto", "auto, cpu, cuda or cuda:N; under torchrun cuda is the GPU of LOCAL_RANK", free=True)
    validate_every: int = _option(1, "epochs between validations", _COUNT, free=True)
    save_every: int = _option(
        0, "also save a checkpoint every so many steps; 0: at the end of each epoch only", _NOT_NEGATIVE, free=True
    )
    seed: int = _option(0, "decides weights, order, augmentation and pooling windows", _SEED)
    resume: str = _option(
        "auto", "auto: resume from OUTPUT/last.pt if it is there; none: start anew; or a checkpoint's path", free=True
    )
    activation_checkpointing: bool = _option(
        False,
        "keep only what enters residual units and make the rest again in the backward: about a third of the memory for "
        "one more forward pass a step, and the same weights bit for bit",
        free=True,
    )
    compile: bool = _option(False, "torch.compile the network", free=True)
    sync_batchnorm: bool = _option(
        False,
        "with several processes: batch norms use the statistics of the whole batch instead of their own share's, and "
        "wait for each other at every norm",
    )

    @property
    def cuda_graph(self) -> bool:
        """Whether the step is recorded as a CUDA graph; a task that can has an option of this name."""
        return False

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            _check(option, getattr(self, option.name))

    @classmethod
    def options(cls) -> list[dataclasses.Field[Any]]:
        """The fields in the order of `--help`: the task's own first."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        return [fields[name] for name in dict.fromkeys([*cls.__annotations__, *RunConfig.__annotations__])]

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """One flag for every option; older names work and are not shown."""
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
        """The config of parsed flags."""
        return cls(**{option.name: getattr(arguments, option.name) for option in cls.options()})

    def conflicts(self, recorded: dict[str, Any]) -> list[str]:
        """How a checkpoint's record differs in options that decide what is trained, a phrase for each."""
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
        "demo (synthetic people), lsp, lsp+lspet, mpii, mpii+lsp, a mixture such as mpii*3+lsp*2+lspet (each person "
        "of MPII three times an epoch), your own: coco:TRAIN.json[,VAL.json], or any of them in one file: packed:FILE, "
        "written by data.pack",
    )
    root: str | None = _option(
        None,
        "folder that holds lsp_dataset/, lspet_dataset/, mpii/; or the images of your own; none for packed:FILE",
        free=True,
    )
    allow_outside: bool = _option(
        False, "images of coco: may lie outside of --root: absolute names, .. and links", free=True
    )
    stacks: int = _option(8, "hourglass stacks", _COUNT)
    features: int = _option(256, "channels of the hourglass; the stem has features/4 and features/2", _COUNT)
    variant: str = _option("B*", "residual module", choices=("plain", "wide", "A", "B", "B*", "C", "D"))
    depth: int = _option(4, "hourglass levels", _COUNT)
    levels: int = _option(4, "pyramid levels C of a PRM", _COUNT)
    base_width: int = _option(9, "a PRM's pyramid has 1/this of its channels, rounded down", _COUNT)
    pool_windows: str = _option(
        "channel",
        "fractional pooling windows: one draw per sample and channel (the paper), or shared by a sample's channels, "
        "or by the batch (faster)",
        choices=("channel", "sample", "batch"),
    )
    variance_control: bool = _option(
        True, "BN-ReLU-1x1 instead of the identity skip before two branches of the hourglass are added (section 4.2)"
    )
    input_size: int = _option(256, "side of the square network input, pixels", _COUNT)
    early_size: int | None = _option(None, "input size of the early epochs: cheaper pictures first, see --early-share")
    early_share: float = _option(0.5, "share of the epochs that --early-size is used for", _SHARE)
    batch_size: int = _option(16, "people a step, of all processes together", _COUNT)
    epochs: int = _option(200, "passes over the training set", _COUNT)
    lr: float = _option(7e-4, "RMSProp learning rate", _POSITIVE)
    schedule: str = _option(
        "step", "÷10 at 75 %% and at 85 %% of the run (the paper), or cosine to 0", choices=("step", "cosine")
    )
    weight_decay: float = _option(0.0, "RMSProp weight decay", _NOT_NEGATIVE)
    weights: str | None = _option(
        None,
        "start from the weights of this checkpoint, with a fresh optimizer and step 0: fine-tuning; it may have LSP's "
        "joints where the data has MPII's, and fewer stacks",
    )
    init: str = _option(
        "torch",
        "weight initialization: the paper's equation 15, Xavier (Glorot), Kaiming (MSR, He), or PyTorch's own",
        choices=tuple(INITIALIZERS),
    )
    sigma: float = _option(1.0, "standard deviation of the target Gaussians, map pixels", _POSITIVE)
    scale_noise: float = _option(0.25, "augmentation: standard deviation of the scale, cut at 1 ± this", _BELOW_1)
    rotation_noise: float = _option(
        30.0, "augmentation: standard deviation of the rotation, degrees, cut at twice this", _NOT_NEGATIVE
    )
    rotation_probability: float = _option(0.4, "augmentation: share of samples that are rotated", _SHARE)
    color_noise: float = _option(
        0.2, "augmentation: each color channel times U(1 - this, 1 + this)", _BELOW_1, was="colour_noise"
    )
    resize_share: float = _option(
        0.0, "augmentation: share of samples with people 0.4 to 2 times as large as they should be", _SHARE
    )
    turn_share: float = _option(0.0, "augmentation: share of samples turned by any angle", _SHARE)
    cut_share: float = _option(
        0.0, "augmentation: share of samples in which a border of the picture or the crop cuts the person off", _SHARE
    )
    cover_share: float = _option(
        0.0, "augmentation: share of samples in which something covers up to half of the person", _SHARE
    )
    empty_share: float = _option(
        0.0,
        "augmentation: share of samples without a person: parts of scenes outside everybody's box, synthetic "
        "backgrounds, people who are hidden altogether",
        _SHARE,
    )
    absence_weight: float = _option(
        0.0,
        "weight in the loss of joints that are known not to be in the crop, whose target is zeros, where that of "
        "others is 1; 0: they take no part",
        _NOT_NEGATIVE,
    )
    workers: int = _option(
        -1,
        "loader processes of each training process; 0: load in the training process; -1: on a GPU its cores - 1, at "
        "most 8, and on the CPU 0",
        _WORKERS,
        free=True,
    )
    cache: bool = _option(True, "keep decoded people in memory (about 100 kB each)", free=True)
    on_error: str = _option(
        "raise",
        "a corrupt image stops the run, or is named, counted and left out",
        choices=("raise", "skip"),
        free=True,
    )
    cuda_graph: bool = _option(
        False,
        "record the whole step once as a CUDA graph and replay it: no launches; on one NVIDIA GPU, without --compile",
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
"""How long the published networks were trained, by the first part of their names."""


@dataclass(frozen=True)
class ClassifierConfig(RunConfig):
    """Options of `python -m pyranet_fast.train_classifier`; the defaults are the published recipes.

    There is no ``cuda_graph``: its SGD reads the learning rate on the host, which a graph would not see change.
    """

    dataset: str = _option("demo", "demo (colored shapes) or cifar10", choices=("demo", "cifar10"))
    root: str | None = _option(None, "folder that holds cifar-10-batches-py/", free=True)
    model: str = _option(
        "wrn-28-10-pyramid",
        "wrn-DEPTH-WIDTH or resnext-DEPTH-CARDINALITYxWIDTHd, with or without -pyramid",
    )
    batch_size: int = _option(128, "images a step, of all processes together", _COUNT)
    epochs: int = _option(0, "passes over the training set; 0: as published, 200 for wrn and 300 for resnext", _COUNT)
    lr: float = _option(0.1, "learning rate of SGD with Nesterov momentum", _POSITIVE)
    schedule: str = _option(
        "auto",
        "wrn: ×0.2 at 30, 60 and 80 %% of the run; resnext: ÷10 at 50 and 75 %%; cosine to 0; auto: the model's own",
        choices=("auto", "wrn", "resnext", "cosine"),
    )
    momentum: float = _option(0.9, "Nesterov momentum", _BETWEEN_0_AND_1)
    weight_decay: float = _option(5e-4, "weight decay, of all parameters", _NOT_NEGATIVE)
    init: str = _option(
        "published",
        "weight initialization: as the network's authors did (He's rule with the fan-out), or as in train",
        choices=("published", "paper", "xavier", "kaiming"),
    )
    augment: bool = _option(True, "random crops of images padded by 4 pixels, and mirroring")

    def __post_init__(self) -> None:
        # What is recorded is what is done: "auto" and 0 stand for the model's published recipe.
        family = self.model.split("-")[0]
        if self.schedule == "auto":
            object.__setattr__(self, "schedule", family if family in EPOCHS else "wrn")
        if self.epochs == 0:
            object.__setattr__(self, "epochs", EPOCHS.get(family, EPOCHS["wrn"]))
        super().__post_init__()
