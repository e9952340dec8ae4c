"""The batches of several clients in turn, as if each had a loader of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from splitlearn.data.resumable import Batch, ResumableLoader


class ClientsLoader:
    """Hands out batches client by client, in rounds: so many of the first, then as many of the next.

    A pass has as many rounds as the client with most batches needs. The others go on with their own next epoch meanwhile, as
    they would if each trained for the same number of steps.

    Args:
        loaders: each client's loader, in order.
        per_turn: how many batches of a client come one after another.

    Raises:
        ValueError: a client's batches do not make whole turns.
    """

    def __init__(self, loaders: Sequence[ResumableLoader], per_turn: int = 1) -> None:
        for number, loader in enumerate(loaders, 1):
            if len(loader) % per_turn:
                raise ValueError(
                    f"client {number} has {len(loader)} batches in an epoch, of which "
                    f"trainer.accumulate_grad_batches={per_turn} make no whole steps; set it to 1, or "
                    "choose data.max_train_blocks so that they do"
                )
        self._loaders = list(loaders)
        self._per_turn = per_turn
        self._rounds = max(map(len, loaders)) // per_turn
        self._epoch = self._num_done = self._num_skipped = 0

    def __len__(self) -> int:
        return self._rounds * self._per_turn * len(self._loaders)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: the epoch's number is set after the first iterator is made, and before it is used.
        self._num_done, self._num_skipped = self._num_skipped, 0
        begin = self._epoch * self._rounds * self._per_turn
        streams = [_batches(loader, begin + self._handed_out(place)) for place, loader in enumerate(self._loaders)]
        for number in range(self._num_done, len(self)):
            batch = next(streams[number // self._per_turn % len(streams)])
            self._num_done += 1
            yield batch

    def _handed_out(self, place: int) -> int:
        """Return how many batches of a client are among those of this pass that an interrupted run has had."""
        rounds, rest = divmod(self._num_done, self._per_turn * len(self._loaders))
        return rounds * self._per_turn + min(max(rest - place * self._per_turn, 0), self._per_turn)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the pass have been handed out."""
        return {"num_batches": self._num_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Have the next pass begin after the batches that were handed out already."""
        self._num_skipped = state["num_batches"]
        self.set_epoch(state.get("epoch", 0))


def _batches(loader: ResumableLoader, begin: int) -> Iterator[Batch]:
    """Yield a client's batches of all its epochs, one after another, from the given one on."""
    epoch, done = divmod(begin, len(loader))
    while True:
        loader.load_state_dict({"num_batches": done, "epoch": epoch})
        yield from loader
        epoch, done = epoch + 1, 0
