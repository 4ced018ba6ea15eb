"""The training loop of all tasks; resumable after every interruption."""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ..checkpoint import Checkpoint, save_checkpoint
from ..errors import UserError
from ..io import reading
from ..models.biases import absorb_biases_
from ..models.optimized.graphs import CudaCapture
from ..models.precision import AUTO, choose_precision
from ..models.zoo import LAST, load_checkpoint, load_weights
from ..nn.batch_statistics import synchronize_batch_norms_
from . import distributed
from .casting import CastWeights
from .config import RunConfig
from .logging import LossGrowth, Meter, RunLog, peak_megabytes
from .optim import (
    MovingAverage,
    check_optimizer,
    checked_step,
    checked_updates,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)
from .report import Findings, Report, WarningLog
from .step import FigureReader, Figures, GraphedStep, Step

logger = logging.getLogger("pyranet_fast")

RESUME = "rerun the same command to resume"


class Task(Protocol):
    """Interface of a training task (pose, classification): data, loss, validation, images."""

    config: Any
    """Its options, a `RunConfig`; the trainer puts the precision there where it is to be found out."""
    kind: str
    """What its checkpoints are of: "pose" or "classification"."""
    model: nn.Module
    """What `loss` runs; the trainer puts the compiled or distributed form of the network here."""
    device: torch.device
    steps_per_epoch: int

    def optimizer(self) -> torch.optim.Optimizer:
        """Return a new optimizer of the model's parameters."""

    def batches(self, first: int, last: int) -> Iterator[dict[str, Tensor]]:
        """Yield this process's part of the training batches ``first`` to ``last`` - 1, deterministically."""

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        """Return loss, accuracy in [0, 1] and number of samples of a batch."""

    def trial_batch(self, samples: int) -> dict[str, Tensor]:
        """Return a dummy batch like those of ``batches``, for timing."""

    def validate(self, model: nn.Module, epoch: int) -> dict[str, Any]:
        """Return validation results after an epoch (0-based); ``["mean"]`` is the main metric."""

    def draw(self, model: nn.Module, path: Path, epoch: int) -> None:
        """Draw predictions on validation samples after an epoch (0-based)."""

    def facts(self) -> dict[str, str]:
        """Describe the run by name: data, network, as text."""

    def findings(self, results: dict[str, Any]) -> Findings:
        """Return table and images of the last call of `validate`, with its ``results``."""

    def checkpoint(self, weights: dict[str, Tensor]) -> Checkpoint:
        """Return a checkpoint with network, input description and, in ``training``, the training data."""

    def compare_data(self, checkpoint: Checkpoint, source: str | Path) -> None:
        """Raise UserError if the checkpoint to resume was trained on incompatible data; report changes."""


class Made(NamedTuple):
    """Host values of a step: number (0-based), learning rate, samples, wait for data."""

    step: int
    rate: float
    samples: int
    waited: float


class Diverged(UserError):
    """The loss is no longer a number."""


class Trainer:
    """Trains a task to the end of its config, resuming from a checkpoint if available.

    Under torchrun every process has one; the first validates, writes and reports.

    Args:
        task: model and data.
        config: options.
        warnings: warnings so far, for the report.

    Attributes:
        model: the trained network, neither compiled nor wrapped.
        optimizer: of its parameters.
        average: the moving average of its weights, or None.
        step: number of finished steps.
        total: number of steps of the entire run.
        results: of the last validation.
    """

    def __init__(self, task: Task, config: RunConfig, warnings: WarningLog | None = None) -> None:
        self._warnings = warnings or WarningLog()
        self.task, self.config, self.output = task, config, Path(config.output)
        self.model, self.optimizer = task.model, task.optimizer()
        share = torch.ones((), device=task.device) if config.cuda_graph else None
        self.average = MovingAverage(self.model, config.ema, share) if config.ema else None
        self.total = config.epochs * task.steps_per_epoch
        if config.max_steps is not None:
            self.total = min(self.total, config.max_steps)
        self.step = 0
        self.results: dict[str, Any] = {}
        self._log: RunLog | None = None
        self._ended: dict[str, float] | None = None  # figures of an epoch that is saved and not yet validated
        self._meter = Meter()  # of the epoch that is trained
        self._growth = LossGrowth()
        torch.manual_seed(config.seed)

    @property
    def network(self) -> nn.Module:
        """Network for validation and prediction: the moving average if there is one."""
        return self.model if self.average is None else self.average.module

    @property
    def epoch(self) -> int:
        """Number of the epoch that the last step belongs to, from 1."""
        return (self.step - 1) // self.task.steps_per_epoch + 1

    def fit(self) -> dict[str, Any]:
        """Run all remaining steps, with a checkpoint, a validation and another checkpoint at the end of each epoch.

        A validation that is interrupted is repeated on resuming.

        Returns:
            The last validation results.

        Raises:
            Diverged: NaN or infinite loss, on CUDA detected one step later; always checked before saving.
            UserError: another process trains into the same folder.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, with everything saved.
        """
        with sole_training(self.output) if distributed.is_main_process() else nullcontext():
            try:
                return self._fit()
            except Diverged as error:
                self._write_report(f"Diverged: {error}")
                raise

    def _fit(self) -> dict[str, Any]:
        self.resume()
        self._settle_precision()
        kept = self.step - (self._ended is not None)  # a row that was written as the process ended is written again
        log = self._log = RunLog(self.output, kept) if distributed.is_main_process() else None
        facts = self.task.facts() if log is not None else {}
        self._report = Report(self.output, self.config, self.task.device, facts, self._warnings)
        step = self._prepare_step()
        figures: FigureReader[Made] = FigureReader(self.task.device)
        if not self._meter.steps:
            self._meter = Meter()  # the clock starts with the first step
        self.model.train()
        with catch_signals() as stop, LateDeaths() as deaths, self._progress_bar() as bar:
            if self._ended is not None:
                self._end_epoch(log, self._ended)
                self.save()
            batches = iter(self.task.batches(self.step, self.total))
            while self.step < self.total:
                started = time.perf_counter()
                batch = self._next(batches, deaths, figures)
                waited = time.perf_counter() - started

                rate = self._learning_rate()
                distributed.seed_step(self.config.seed, self.step)
                loss, accuracy, samples = step.run(batch, rate)
                made = Made(self.step, rate, samples * distributed.world_size(), waited)
                stopping = self._count(figures.put(loss, accuracy, stop.requested, made))
                self.step += 1

                bar.set_postfix_str(f"epoch {self.epoch}, {self._meter}", refresh=False)
                bar.update()
                if distributed.world_size() == 1:
                    stopping = stop.requested
                ended = self.step % self.task.steps_per_epoch == 0 or self.step == self.total
                if ended or stopping or self._save_is_due():
                    stopping = self._count(figures.rest()) or stopping
                if ended:
                    self._ended = {**self._meter.row(), "lr": rate}
                    self._meter = Meter()  # the next epoch's
                    self.save()
                    self._end_epoch(log, self._ended)
                    self._meter = Meter()  # validation's time is no epoch's
                if ended or stopping or self._save_is_due():
                    self.save()
                if stopping and self.step < self.total:
                    self._stop()
        if log is not None:
            log.close(self._summary())
            self._write_report(f"Finished: {self.step} steps.")
        return self.results

    def _next(
        self, batches: Iterator[dict[str, Tensor]], deaths: LateDeaths, figures: FigureReader[Made]
    ) -> dict[str, Tensor]:
        """The next batch; where it does not come (a dead loader, no memory, an image), what was made is saved."""
        try:
            with deaths.raised():
                return next(batches)
        except Exception:
            self._count(figures.rest())
            if self.step:
                self.save()
                if distributed.is_main_process():
                    logger.warning(f"saved {self.output / LAST} at step {self.step} of {self.total}; {RESUME}")
            raise

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to resume bitwise, except the weights of `network`."""
        on_gpu = self.task.device.type == "cuda"
        return {
            "step": self.step,
            "ended": self._ended,
            "epoch": self._meter.state(),
            "settings": asdict(self.config),
            "raw_weights": _on_cpu(self.model) if self.average is not None else None,
            "averaged": self.average.count if self.average is not None else 0,
            "optimizer": optimizer_state(self.optimizer),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.task.device) if on_gpu else None,
        }

    def load_state_dict(
        self, state: dict[str, Any], weights: dict[str, Tensor], source: str | Path = "checkpoint"
    ) -> None:
        """Restore the state of another trainer.

        Args:
            state: result of `state_dict`.
            weights: of its `network`.
            source: name in error messages.

        Raises:
            UserError: options, network or optimizer step differ.
        """
        step = checked_step(state["step"], state["optimizer"])
        if self.config.precision == AUTO:
            self._set_precision(state["settings"]["precision"])
        if conflicts := self.config.conflicts(state["settings"]):
            raise UserError(
                f"checkpoint {source} was trained with other settings ({', '.join(conflicts)}); use them, another "
                "--output, or --resume none"
            )
        if self.average is not None:
            load_weights(self.average.module, weights, source)
            self.average.count = checked_updates(state["averaged"])
        load_weights(self.model, weights if self.average is None else state["raw_weights"], source)
        load_optimizer_state(self.optimizer, state["optimizer"])
        check_optimizer(self.optimizer)
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and self.task.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.task.device)
        self._meter = Meter.resumed(checked_figures(state.get("epoch"), Meter().state().keys()))
        self.step, self._ended = step, checked_figures(state.get("ended"), {*Meter().row(), "lr"})

    def save(self) -> None:
        """Write OUTPUT/last.pt atomically, in the first process only."""
        if not distributed.is_main_process():
            return
        checkpoint = self.task.checkpoint(_on_cpu(self.network))
        checkpoint.metrics = self.results
        checkpoint.training |= self.state_dict()
        save_checkpoint(self.output / LAST, checkpoint)
        logger.debug(f"saved {self.output / LAST} at step {self.step}")

    def resume(self) -> None:
        """Resume from the checkpoint of ``--resume``, if there is one.

        Raises:
            UserError: the checkpoint cannot be read, has other options, or differs between processes.
        """
        path = resume_path(self.config)
        if path is not None:
            checkpoint = load_checkpoint(path, self.task.kind)
            if not checkpoint.training:
                raise UserError(f"checkpoint {path} holds weights for prediction only; training cannot resume from it")
            with reading(path, "a resumable checkpoint (--resume none starts over)"):
                self.task.compare_data(checkpoint, path)
                self.load_state_dict(checkpoint.training, checkpoint.weights, path)
            self.results = checkpoint.metrics
            if distributed.is_main_process():
                logger.info(f"resumed from {path} at step {self.step} of {self.total}")
        starts = distributed.all_gather(self.step)
        if len(set(starts)) > 1:
            raise UserError(
                f"--output must be a folder that all processes see, got {self.config.output}: the processes start at "
                f"different steps ({', '.join(map(str, starts))})"
            )

    # --- parts of the loop ---

    def _settle_precision(self) -> None:
        """Measure which precision is faster, with `auto`; the first process measures for all."""
        if self.config.precision != AUTO:
            return
        chosen = ""
        if distributed.is_main_process():
            with torch.random.fork_rng(), trial(self.task) as attempt:
                samples = self.config.batch_size // distributed.world_size()
                choice = choose_precision(attempt, samples, "a step", self.task.device)
            chosen = choice.precision
            logger.info(f"precision auto: {choice}")
        self._set_precision(distributed.all_gather(chosen)[0])

    def _set_precision(self, precision: str) -> None:
        self.config = self.task.config = replace(self.config, precision=precision)

    def _prepare_step(self) -> Step:
        """Compile and distribute the task's model as the options say; returns what makes a step with it."""
        without_bias = absorb_biases_(self.model)
        if self.average is not None:
            absorb_biases_(self.average.module)
        running = torch.compile(self.model) if self.config.compile else self.model
        self.task.model = distributed.data_parallel(running, self.task.device)  # type: ignore[arg-type]
        casts = CastWeights(self.model) if self._casts_at_once() else None
        if self.config.cuda_graph:
            capture = CudaCapture(self.task.device)
            return GraphedStep(self.task, self.optimizer, capture, self.average, casts, without_bias)
        return Step(self.task, self.optimizer, self.average, casts, without_bias)

    def _casts_at_once(self) -> bool:
        """Whether weights are cast by one call: not where compiled code or the exchange of gradients knows them."""
        c = self.config
        return (
            c.precision == "bf16"
            and self.task.device.type == "cuda"
            and not c.compile
            and distributed.world_size() == 1
        )

    def _progress_bar(self) -> tqdm[Any]:
        """On the first process's terminal, unless ``--quiet`` was given."""
        shown = distributed.is_main_process() and logger.level <= logging.INFO
        return tqdm(
            total=self.total,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            disable=None if shown else True,
            smoothing=0.05,
        )

    def _learning_rate(self) -> float:
        c = self.config
        return learning_rate(self.step, self.total, base=c.lr, schedule=c.schedule, warmup=c.warmup)

    def _count(self, read: list[tuple[Made, Figures]]) -> bool:
        """Add steps to the epoch's figures, if they are numbers; returns whether a process wants to stop."""
        for made, figures in read:
            if not math.isfinite(figures.loss):
                raise Diverged(
                    f"the loss became {figures.loss} at step {made.step} (learning rate {made.rate:.2e}); nothing of "
                    f"this step was kept. {self.output / LAST} holds the last good state, if an epoch was finished: "
                    "lower --lr, use --warmup, or --precision fp32"
                )
            self._meter.add(figures.loss, figures.accuracy, made.samples, made.waited)
            warning = self._growth.add(figures.loss, made.step)
            if warning and distributed.is_main_process():
                logger.warning(f"{warning} (learning rate {made.rate:.2e}): lower --lr, or use --warmup")
        return any(figures.stopping for _, figures in read)

    def _end_epoch(self, log: RunLog | None, figures: dict[str, float]) -> None:
        """Validate if it is time to, draw, and log the epoch; the first process alone does."""
        self._ended = None
        if log is None:
            return
        validation = None
        if self.epoch % self.config.validate_every == 0 or self.step == self.total:
            self.network.eval()
            self.results = self.task.validate(self.network, self.epoch - 1)
            self._report.show(self.task.findings(self.results))
            self.task.draw(self.network, self.output / "pictures" / f"epoch_{self.epoch:03d}.png", self.epoch - 1)
            self.model.train()
            validation = self.results["mean"]
        row = {"epoch": self.epoch, "step": self.step, **figures, "validation": validation}
        log.write(row, self.results)
        self._write_report(
            f"Epoch {self.epoch} of {math.ceil(self.total / self.task.steps_per_epoch)}, step {self.step} of "
            f"{self.total}. If the training was ended since, rerun the same command to resume."
        )
        validated = f"validation {validation:.2f}, " if validation is not None else ""
        logger.info(
            f"epoch {self.epoch}: loss {row['loss']:.5f}, accuracy {row['accuracy']:.1%}, {validated}"
            f"{row['images_per_second']:.0f} images/s, data wait {row['data_wait']:.1%}"
        )

    def _save_is_due(self) -> bool:
        return self.config.save_every > 0 and self.step % self.config.save_every == 0

    def _stop(self) -> None:
        distributed.all_gather(self.step)  # no process leaves before the checkpoint exists
        if distributed.is_main_process():
            done = f"stopped at step {self.step} of {self.total}; saved {self.output / LAST}"
            self._write_report(f"Stopped at step {self.step} of {self.total}; {RESUME}.")
            logger.warning(f"{done}; {RESUME}")
        raise KeyboardInterrupt

    def _write_report(self, status: str) -> None:
        """The page of the training as it stands; the first process alone writes it."""
        if self._log is not None:
            self._report.write(self._log.rows, self.results, status)

    def _summary(self) -> dict[str, Any]:
        return {
            "metric": self.results.get("metric"),
            "validation": self.results.get("mean"),
            "steps": self.step,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "device": str(self.task.device),
            "peak_megabytes": round(peak_megabytes(self.task.device), 1),
        }


def resume_path(config: RunConfig) -> Path | None:
    """Return the checkpoint to resume from, or None."""
    if config.resume == "none":
        return None
    if config.resume == "auto":
        last = Path(config.output) / LAST
        return last if last.exists() else None
    return Path(config.resume)


@contextmanager
def trial(task: Task) -> Iterator[Callable[[str, int], None]]:
    """Inside, steps of a precision and a number of samples can be timed; nothing of them stays in the network."""
    config, model = task.config, task.model
    task.model = copy.deepcopy(model).train()
    synchronize_batch_norms_(task.model, False)  # the other processes make no such steps

    def attempt(precision: str, samples: int) -> None:
        task.config = replace(config, precision=precision)
        loss, _, _ = task.loss(task.trial_batch(samples))
        loss.backward()

    try:
        yield attempt
    finally:
        task.config, task.model = config, model


def checked_figures(value: Any, names: Set[str]) -> dict[str, float] | None:
    """The figures of an epoch, of a checkpoint, where they are some."""
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != names:
        raise UserError("its training has other figures of its epoch than expected; it is damaged")
    return {name: float(figure) for name, figure in value.items()}


@contextmanager
def sole_training(folder: Path) -> Iterator[None]:
    """Lock the output folder for this process, since two would write to one log and one last.pt.

    The operating system releases the lock, on a file with the process id, when the process ends.

    Raises:
        UserError: another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".training.lock"
    with path.open("a+") as file:
        try:
            # Of this process alone: its loaders, which live on for a while where it is killed, do not hold it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise UserError(
                f"output folder {folder} is in use by training process {file.read().strip() or 'unknown'}; "
                "wait for its end, stop it, or use another --output"
            ) from error
        except OSError:  # a file system without locks
            yield
            return
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is locked: who finds it gone makes one of its own


class StopRequest:
    """Flag that requests a stop."""

    requested = False


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Make Ctrl-C and SIGTERM stop at the end of the step; a second Ctrl-C stops immediately."""
    stop = StopRequest()

    def ask(number: int, frame: Any) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: leave signals to their owner
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LateDeaths:
    """Inside, the death of a loader process is raised while a batch is waited for.

    Torch's handler of SIGCHLD raises it wherever the main thread is, such as in the middle of a step, half of which
    would be in the weights.
    """

    def __init__(self) -> None:
        self._handler: Callable[[int, Any], Any] | None = None
        self._died = False

    def __enter__(self) -> LateDeaths:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Inside, and of what has died before, it is."""
        handler = self._give_back()
        try:
            if self._died and handler is not None:
                self._died = False
                handler(signal.SIGCHLD, None)
            yield
        finally:
            self._take()

    def _note(self, number: int, frame: Any) -> None:
        self._died = True

    def _take(self) -> None:
        if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler):
            self._handler = handler
            signal.signal(signal.SIGCHLD, self._note)

    def _give_back(self) -> Callable[[int, Any], Any] | None:
        handler, self._handler = self._handler, None
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)
        return handler


def _on_cpu(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
