"""A sampler whose order depends on (seed, epoch) alone, so that a resumed run sees the same batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) from a position in training to its end, across epochs without a gap.

    Args:
        size: number of samples in the data set.
        batch_size: samples a batch; the incomplete last batch of an epoch is left out (batch norm wants full ones).
        seed: with the epoch, decides the order.
        first: number of batches to skip: where a resumed run goes on.
        last: number of batches of the whole training.
        rank, ranks: give only the part ``rank`` of each batch, of ``ranks`` equal ones.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, first: int, last: int, *, rank: int = 0, ranks: int = 1
    ) -> None:
        share = batch_size // ranks
        self.part = slice(rank * share, (rank + 1) * share)
        self.size, self.batch_size, self.seed, self.first, self.last = size, batch_size, seed, first, last
        self.per_epoch = size // batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order: list[int] = []
        for step in range(self.first, self.last):
            epoch, position = divmod(step, self.per_epoch)
            if position == 0 or not order:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = torch.randperm(self.size, generator=generator).tolist()
            chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield [(epoch, index) for index in chosen[self.part]]

    def __len__(self) -> int:
        return max(0, self.last - self.first)
