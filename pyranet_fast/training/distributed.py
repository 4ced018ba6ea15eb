"""Distributed data-parallel training under torchrun, one process per GPU or group of CPU cores.

Every process has the entire network and a part of each batch; gradients are averaged. Norms use the statistics of their
own part, as in the published code, and the running statistics of the first process are saved; with ``--sync-batchnorm``
they use those of the entire batch (`nn.synchronize_batch_norms_`). Without torchrun these functions do nothing.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from ..models.zoo import resolve_device

T = TypeVar("T")

# The others wait while the first process validates and saves; one that has died is torchrun's to notice.
_PATIENCE = timedelta(hours=4)


def world_size() -> int:
    """Number of training processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this process is the one that validates, writes and reports."""
    return rank() == 0


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if dist.is_initialized() else 1


@contextmanager
def process_group(device: str, batch_size: int | None) -> Iterator[torch.device]:
    """Join the process group of torchrun within the context; yields the device of this process.

    Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; without the first two, the process is the only one.

    Args:
        device: ``--device``; with several processes ``"auto"``, ``"cpu"`` or ``"cuda"``: the GPU of the LOCAL_RANK.
        batch_size: total over all processes; None without batches.

    Raises:
        UserError: the batch cannot be split evenly, the device is missing, or another process ended.
    """
    try:
        count, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    except ValueError:
        raise UserError("WORLD_SIZE and LOCAL_RANK must be integers, as set by torchrun") from None
    if count < 2 or "RANK" not in os.environ:
        yield resolve_device(device)
        return
    if batch_size is not None and batch_size % count:
        raise UserError(f"--batch-size must be a multiple of the number of processes, {count}, got {batch_size}")
    chosen = _device(device, local)
    cuda = chosen.type == "cuda"
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE, device_id=chosen if cuda else None)
    try:
        yield chosen
    except RuntimeError as error:
        if not _connection_lost(error):
            raise
        raise UserError("another process of this run has ended, and this one with it; see its message") from error
    # After an error, leave the connections to process exit: closing them could wait for processes that no longer exist.
    dist.barrier()
    dist.destroy_process_group()


def _device(name: str, local: int) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device must be auto, cpu or cuda with several processes, got {name!r}")
    chosen = resolve_device(name)
    if chosen.type == "cpu":
        return chosen
    if local >= torch.cuda.device_count():
        raise UserError(
            f"--nproc-per-node must be at most {torch.cuda.device_count()}, the number of GPUs, got at least "
            f"{local + 1}; or use --device cpu"
        )
    chosen = torch.device("cuda", local)
    torch.cuda.set_device(chosen)
    return chosen


def _connection_lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap the model for data parallelism: equal initial weights and averaged gradients."""
    if world_size() == 1:
        return model
    places = [device] if device.type == "cuda" else None
    # Running statistics are not copied before each forward pass; torch 2.13 has another name for that.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    option: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, device_ids=places, **option)


def seed_step(seed: int, step: int) -> None:
    """Give every process different pooling windows in a step.

    The first process continues its generator, whose state is saved; the others seed theirs from (seed, step, rank), so
    a run can resume with another number of processes.
    """
    if rank():
        torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank())


def mean(*values: Tensor | float, device: torch.device) -> list[float]:
    """Return the mean of each value over all processes."""
    if world_size() == 1:
        return [value.item() if isinstance(value, Tensor) else float(value) for value in values]
    return mean_on_device(*values, device=device).tolist()


def mean_on_device(*values: Tensor | float, device: torch.device) -> Tensor:
    """Return `mean` as a float64 tensor, without synchronizing with a GPU."""
    own = torch.stack(
        [
            value.detach().to(device, torch.float64)
            if isinstance(value, Tensor)
            else torch.full((), float(value), dtype=torch.float64, device=device)
            for value in values
        ]
    )
    if world_size() > 1:
        dist.all_reduce(own)
        own /= world_size()
    return own


def all_gather(value: T) -> list[T]:
    """Return the values of all processes, by rank."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values
