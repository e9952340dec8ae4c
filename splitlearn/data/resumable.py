"""Batches in an order that a run can take up again in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler


class EpochOrder(Sampler[int]):
    """A new order in each epoch, which depends on nothing but the seed and the epoch's number.

    Args:
        size: how many rows there are.
        seed: what the orders depend on besides the epoch.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._epoch = 0
        # Rows that the next pass leaves out, since an interrupted run has had them.
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        seed = int(np.random.SeedSequence([self._seed, self._epoch]).generate_state(1)[0])
        order = torch.randperm(self._size, generator=torch.Generator().manual_seed(seed))
        start, self.skip = self.skip, 0
        return iter(order[start:].tolist())


class ResumableLoader(DataLoader[dict[str, torch.Tensor]]):
    """A data loader whose place in the epoch Lightning keeps in its checkpoints.

    Args:
        rows: the data set.
        batch_size: rows in each batch.
        seed: decides the order.
        num_workers: processes that prepare batches.
    """

    def __init__(self, rows: Any, batch_size: int, seed: int, num_workers: int) -> None:
        # Not the global generator: what draws from it would otherwise depend on the number of workers.
        generator = torch.Generator().manual_seed(seed)
        order = EpochOrder(len(rows), seed)
        super().__init__(rows, batch_size, sampler=order, num_workers=num_workers, generator=generator)
        self._order = order
        self._num_done = 0

    def __iter__(self) -> Any:
        # A generator: the epoch's number is set after the first iterator is made, and before it is used.
        self._num_done = self._order.skip // (self.batch_size or 1)
        for batch in super().__iter__():
            self._num_done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been handed out."""
        return {"num_batches": self._num_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Have the next pass begin after the batches that were handed out already."""
        self._order.skip = state["num_batches"] * (self.batch_size or 1)
