"""Going on from a checkpoint: which one, whether it fits, and putting its state back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..errors import UserError
from .checkpoint import LAST, load_checkpoint, load_weights
from .optimizer_state import load_plain_state
from .settings import RunSettings


def resume_path(settings: RunSettings, output: Path) -> Path | None:
    """The checkpoint to go on from, or None."""
    if settings.resume == "none":
        return None
    if settings.resume == "auto":
        return output / LAST if (output / LAST).exists() else None
    return Path(settings.resume)


# Settings that may differ between the parts of one run without changing what is trained.
_FREE = {
    "output",
    "root",
    "resume",
    "workers",
    "device",
    "cache",
    "validate_every",
    "save_every",
    "on_error",
    "compile",
    "cuda_graph",
    "activation_checkpointing",
}


def restore(
    path: Path,
    kind: str,
    model: nn.Module,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    settings: RunSettings,
) -> tuple[int, dict[str, Any]]:
    """Put a checkpoint's state back; returns its step and results.

    Raises:
        UserError: the checkpoint cannot be read, or was made with other settings.
    """
    checkpoint = load_checkpoint(path, kind)
    state = checkpoint.training
    if not state:
        raise UserError(f"checkpoint {path} holds weights for prediction only; training cannot go on from it")
    now = asdict(settings)
    other = sorted(k for k, v in state["settings"].items() if k not in _FREE and k in now and now[k] != v)
    if other:
        differences = ", ".join(f"--{k.replace('_', '-')} {state['settings'][k]} there, {now[k]} here" for k in other)
        raise UserError(
            f"checkpoint {path} was trained with other settings ({differences}); use them, another --output, "
            "or --resume none"
        )
    if average is not None:
        load_weights(average.module, checkpoint.weights, path)
        average.n_averaged.fill_(state["averaged"])
    load_weights(model, checkpoint.weights if average is None else state["raw_weights"], path)
    load_plain_state(optimizer, state["optimizer"])
    torch.set_rng_state(state["random"])
    if state["random_cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random_cuda"])
    return state["step"], checkpoint.metrics
