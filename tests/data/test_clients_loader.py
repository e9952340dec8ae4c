"""Batches of several clients come in turn, each client's in the order in which its own loader has them."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from splitlearn.data.clients_loader import ClientsLoader
from splitlearn.data.resumable import ResumableLoader


def loader(begin: int, count: int) -> ResumableLoader:
    rows = Dataset.from_dict({"input_ids": [[begin + number] for number in range(count)]}).with_format("torch")
    return ResumableLoader(rows, 1, 0, 0)


def ids(batches: list[dict[str, torch.Tensor]]) -> list[int]:
    return [int(batch["input_ids"]) for batch in batches]


def alone(begin: int, count: int, epochs: int) -> list[int]:
    own, found = loader(begin, count), []
    for epoch in range(epochs):
        own.set_epoch(epoch)
        found += ids(list(own))
    return found


@pytest.mark.parametrize("per_turn", [1, 2])
def test_a_smaller_client_goes_on_with_its_next_epoch(per_turn: int) -> None:
    both = ClientsLoader([loader(0, 6), loader(100, 4)], per_turn)
    assert len(both) == 12
    found = []
    for epoch in range(2):
        both.set_epoch(epoch)
        found += ids(list(both))
    assert [number for number in found if number < 100] == alone(0, 6, 2)
    assert [number for number in found if number >= 100] == alone(100, 4, 3)
    assert [number >= 100 for number in found[: 4 * per_turn]] == 2 * ([False] * per_turn + [True] * per_turn)


@pytest.mark.parametrize("done", [1, 3, 6, 7])
def test_a_pass_is_taken_up_where_it_was_left(done: int) -> None:
    def both() -> ClientsLoader:
        made = ClientsLoader([loader(0, 6), loader(100, 4)], 2)
        made.set_epoch(1)
        return made

    whole, rest = both(), both()
    expected = ids(list(whole))
    batches = iter(rest)
    for _ in range(done):
        next(batches)
    resumed = both()
    resumed.load_state_dict({**rest.state_dict(), "epoch": 1})
    assert ids(list(resumed)) == expected[done:]
    assert ids(list(resumed)) == expected, "the next pass is whole"


def test_batches_that_make_no_whole_steps_are_told() -> None:
    with pytest.raises(ValueError, match=r"client 2 has 4 batches in an epoch, of which trainer\.accumulate_grad_batches=3"):
        ClientsLoader([loader(0, 6), loader(100, 4)], 3)
