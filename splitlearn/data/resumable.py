"""Batches in an order that a run can take up again in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, IterableDataset, Sampler, get_worker_info

Batch = dict[str, torch.Tensor]


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


class StreamedBlocks(IterableDataset[Batch]):
    """Blocks that are made while rows are read, of so many rows at a time.

    Args:
        rows: begins to read the rows. Each worker reads them all, and makes blocks of its share.
        rows_at_once: how many rows are made blocks of together, and how many rows are held to draw the next one from. What is
            left over each time and fills no block is left out.
        make_blocks: makes blocks of rows; there may be none.
        seed: decides the order, with the epoch's number.
        max_blocks: how many blocks an epoch has at most; None has all.
    """

    def __init__(
        self,
        rows: Callable[[], Iterator[dict[str, Any]]],
        rows_at_once: int,
        make_blocks: Callable[[Dataset], Dataset | list[Any]],
        seed: int = 0,
        max_blocks: int | None = None,
    ) -> None:
        self._rows = rows
        self._rows_at_once = rows_at_once
        self._make_blocks = make_blocks
        self._seed = seed
        self._max_blocks = max_blocks
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        own, among = (0, 1) if worker is None else (worker.id, worker.num_workers)
        most = None if self._max_blocks is None else self._max_blocks // among + (own < self._max_blocks % among)
        return islice(self._all(own, among), most)

    def _all(self, own: int, among: int) -> Iterator[Batch]:
        rows = self._shuffled()
        for number in count():
            at_once = list(islice(rows, self._rows_at_once))
            if not at_once:
                return
            if number % among == own:
                yield from self._make_blocks(Dataset.from_list(at_once))

    def _shuffled(self) -> Iterator[dict[str, Any]]:
        """Draw each row from the next few, so that never more than ``rows_at_once`` are held."""
        random = np.random.default_rng([self._seed, self._epoch])
        rows = self._rows()
        held = list(islice(rows, self._rows_at_once))
        for row in rows:
            place = int(random.integers(len(held)))
            yield held[place]
            held[place] = row
        yield from (held[place] for place in random.permutation(len(held)))


class ResumableLoader(DataLoader[Batch]):
    """A data loader whose place in the epoch Lightning keeps in its checkpoints.

    Args:
        rows: the data set; of a `StreamedBlocks`, what comes before the place is read again and passed over.
        batch_size: rows in each batch.
        seed: decides the order.
        num_workers: processes that prepare batches.
        collate: what makes a batch of rows; None stacks them.
    """

    def __init__(
        self, rows: Any, batch_size: int, seed: int, num_workers: int, collate: Callable[[list[Any]], Batch] | None = None
    ) -> None:
        # Not the global generator: what draws from it would otherwise depend on the number of workers.
        generator = torch.Generator().manual_seed(seed)
        self._order = None if isinstance(rows, StreamedBlocks) else EpochOrder(len(rows), seed)
        settings: dict[str, Any] = {"num_workers": num_workers, "generator": generator, "collate_fn": collate}
        super().__init__(rows, batch_size, sampler=self._order, **settings)
        self._num_done = 0
        self._num_skipped = 0

    def __iter__(self) -> Any:
        # A generator: the epoch's number is set after the first iterator is made, and before it is used.
        self._num_done, self._num_skipped = self._num_skipped, 0
        if self._order is not None:
            self._order.skip = self._num_done * (self.batch_size or 1)
        passed_over = self._num_done if self._order is None else 0
        for batch in islice(super().__iter__(), passed_over, None):
            self._num_done += 1
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        order = self._order or self.dataset
        if isinstance(order, (EpochOrder, StreamedBlocks)):
            order.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been handed out."""
        return {"num_batches": self._num_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Have the next pass begin after the batches that were handed out already, in the order of its epoch."""
        self._num_skipped = state["num_batches"]
        self.set_epoch(state.get("epoch", 0))
