"""The training loop: reads top to bottom, serves every task, and loses nothing when it is stopped."""

from __future__ import annotations

import math
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from ..checkpoint import Checkpoint, save_checkpoint
from ..errors import UserError
from ..models.optimized.graphs import CudaCapture
from ..models.zoo import LAST, load_checkpoint, load_weights
from . import distributed
from .config import RunConfig
from .logging import Meter, Report
from .optim import load_plain_state, moving_average, plain_state
from .step import GraphedStep, Step


class _Stop:
    wanted = False


@contextmanager
def catch_signals() -> Iterator[_Stop]:
    """Inside, Ctrl-C and SIGTERM ask for a stop at the end of the step; a second Ctrl-C stops at once."""
    stop = _Stop()

    def ask(number: int, frame: Any) -> None:
        if stop.wanted:
            raise KeyboardInterrupt
        stop.wanted = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: leave signals to whoever owns them
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def resume_path(settings: RunConfig, output: Path) -> Path | None:
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
    settings: RunConfig,
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


class Task(Protocol):
    """What the loop asks of a task (pose, classification): data, loss, validation, pictures."""

    kind: str
    """What its checkpoints are of: "pose" or "classification"."""
    model: nn.Module
    device: torch.device
    steps_per_epoch: int

    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimizer of the model's parameters."""

    def learning_rate(self, step: int, total: int) -> float:
        """The rate of a step (0-based) in a run of ``total`` steps."""

    def batches(self, first: int, last: int) -> Iterator[dict[str, Tensor]]:
        """This process's share of the training batches ``first`` to ``last`` - 1, the same ones whenever asked."""

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        """Loss, accuracy in [0, 1] and number of samples of a batch."""

    def validate(self, model: nn.Module, epoch: int) -> dict[str, Any]:
        """Validation results after an epoch (0-based); ``["mean"]`` is the headline."""

    def draw(self, model: nn.Module, path: Path, epoch: int) -> None:
        """A picture of predictions on validation samples after an epoch (0-based)."""

    def checkpoint(self, weights: dict[str, Tensor]) -> Checkpoint:
        """A checkpoint that describes the network and how to feed it."""


class Diverged(UserError):
    """The loss is no longer a number."""


def fit(task: Task, settings: RunConfig) -> dict[str, Any]:
    """Train to the end of the settings, going on from a checkpoint if there is one.

    Returns:
        The last validation results.

    Raises:
        Diverged: NaN or infinite loss.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with everything saved.
    """
    output = Path(settings.output)
    total = settings.epochs * task.steps_per_epoch
    if settings.max_steps is not None:
        total = min(total, settings.max_steps)
    model, optimizer = task.model, task.optimizer()
    average = moving_average(model, settings.ema) if settings.ema else None
    network = average.module if average is not None else model
    torch.manual_seed(settings.seed)
    leads = distributed.leads()
    report = Report(output)
    step = 0
    results: dict[str, Any] = {}
    start = resume_path(settings, output)
    if start is not None:
        step, results = restore(start, task.kind, model, average, optimizer, settings)
        if leads:
            print(f"resumed from {start} at step {step} of {total}", flush=True)
    if len(set(starts := distributed.gathered(step))) > 1:
        raise UserError(
            f"the processes start at different steps ({', '.join(map(str, starts))}); --output is {settings.output}, "
            "and a folder that all of them see is accepted"
        )
    if leads:
        report.open(step)

    def save() -> None:
        raw = {k: v.detach().cpu() for k, v in model.state_dict().items()}
        chosen = {k: v.detach().cpu() for k, v in network.state_dict().items()}
        checkpoint = task.checkpoint(chosen)
        checkpoint.metrics = results
        checkpoint.training = {
            "step": step,
            "settings": asdict(settings),
            "raw_weights": raw if average is not None else None,
            "averaged": int(average.n_averaged) if average is not None else 0,
            "optimizer": plain_state(optimizer),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(task.device) if task.device.type == "cuda" else None,
        }
        save_checkpoint(output / LAST, checkpoint)

    running = torch.compile(model) if settings.compile else model
    task.model = distributed.replicated(running, task.device)  # type: ignore[arg-type]
    stepper = Step(task, optimizer)
    if settings.cuda_graph:
        stepper = GraphedStep(task, optimizer, CudaCapture(task.device))
    meter = Meter()
    bar = tqdm(
        total=total, initial=step, unit="step", dynamic_ncols=True, disable=None if leads else True, smoothing=0.05
    )
    with catch_signals() as stop, bar:
        source = iter(task.batches(step, total))
        while step < total:
            waited = time.perf_counter()
            batch = next(source)
            waited = time.perf_counter() - waited
            rate = task.learning_rate(step, total)
            model.train()
            distributed.seed_step(settings.seed, step)
            loss, accuracy, samples = stepper.loss(batch, rate)
            value, share, asked = distributed.means(loss, accuracy, stop.wanted, device=task.device)
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss became {value} at step {step} (learning rate {rate:.2e}); nothing of this step was "
                    f"kept. {output / LAST} holds the last good state, if an epoch was finished: lower --lr, use "
                    "--warmup, or --precision fp32"
                )
            stepper.update()
            if average is not None:
                average.update_parameters(model)
            step += 1
            meter.add(value, share, samples * distributed.size(), waited)
            epoch = (step - 1) // task.steps_per_epoch + 1
            bar.set_postfix_str(f"epoch {epoch}, {meter}", refresh=False)
            bar.update()
            ended = step % task.steps_per_epoch == 0 or step == total
            if ended and leads:
                figures = meter.row()  # before validation, whose time is not training's
                validated = epoch % settings.validate_every == 0 or step == total
                if validated:
                    network.eval()
                    results = task.validate(network, epoch - 1)
                    task.draw(network, output / "pictures" / f"epoch_{epoch:03d}.png", epoch - 1)
                row = {
                    "epoch": epoch,
                    "step": step,
                    "lr": rate,
                    **figures,
                    "validation": results["mean"] if validated else None,
                }
                report.write(row, results)
                line = f"epoch {epoch}: loss {row['loss']:.5f}, accuracy {row['accuracy']:.1%}, "
                line += f"validation {row['validation']:.2f}, " if row["validation"] is not None else ""
                line += f"{row['images_per_second']:.0f} images/s, data wait {row['data_wait']:.1%}"
                bar.write(line, file=sys.stdout)
                sys.stdout.flush()
            if ended:
                meter = Meter()
            if leads and (ended or asked or (settings.save_every and step % settings.save_every == 0)):
                save()
            if asked and step < total:
                distributed.gathered(step)  # nobody leaves before the checkpoint is there
                if leads:
                    done = f"stopped at step {step} of {total}; saved {output / LAST}"
                    bar.write(f"{done}; the same command goes on from there")
                raise KeyboardInterrupt
    if leads:
        report.close(
            {
                "metric": results.get("metric"),
                "validation": results.get("mean"),
                "steps": step,
                "parameters": sum(p.numel() for p in model.parameters()),
                "device": str(task.device),
                "peak_megabytes": round(peak_megabytes(task.device), 1),
            }
        )
    return results


def peak_megabytes(device: torch.device) -> float:
    """The most memory so far: of tensors on a GPU, of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
