"""When a message of one of several clients is carried out, and that none waits for ever."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest
import torch

from splitlearn.parties import Answer, ClientOrder, Message, Sharing, party_pb2
from splitlearn.parties.client_order import make_order
from splitlearn.training import SharedSteps


class Log:
    """Stands for a part's steps: keeps what is done with them."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def zero(self, client: str) -> None:
        pass

    def scale(self, client: str, factor: float) -> None:
        self.done.append(("scale", client, factor))

    def join(self, clients: Sequence[str]) -> None:
        self.done.append(("join", *clients))

    def step(self, clip_coefficient: torch.Tensor | None) -> None:
        self.done.append(("step", None if clip_coefficient is None else float(clip_coefficient)))


class Clients:
    """Sends messages of clients, and has the log say when they are carried out."""

    def __init__(self, order: str, names: str = "ab") -> None:
        self.log = Log()
        self.order: ClientOrder = make_order(Sharing(tuple(names), order, 10), cast(SharedSteps, self.log))

    def send(self, client: str, kind: str, clip: float | None = None, fails: bool = False) -> Answer | Future[Answer]:
        bodies: dict[str, Any] = {
            "forward": party_pb2.Forward(),
            "ask_norms": party_pb2.AskNorms(scale=2.0),
            "step": party_pb2.Step(scale=2.0, clips=clip is not None),
        }
        tensors = {} if clip is None else {"clip_coefficient": torch.tensor(clip)}

        def work() -> Answer:
            self.log.done.append((kind, client))
            said = party_pb2.Head(error=party_pb2.Error(sentence="no")) if fails else party_pb2.Head(done=party_pb2.Done())
            return said, {}

        return self.order.admit(client, Message(party_pb2.Head(**{kind: bodies[kind]}), tensors, 0), work)


def test_a_turn_ends_with_a_step() -> None:
    clients = Clients("sequential")
    early = clients.send("b", "forward")
    assert isinstance(early, Future) and not early.done()
    assert not isinstance(clients.send("a", "forward"), Future)
    clients.send("a", "ask_norms")
    clients.send("a", "step", clip=0.5)
    assert early.done()
    expected = [("forward", "a"), ("scale", "a", 2.0), ("join", "a"), ("ask_norms", "a"), ("step", "a"), ("step", 0.5)]
    assert clients.log.done == [*expected, ("forward", "b")]
    assert isinstance(clients.send("a", "forward"), Future), "its next turn comes after b's"


def test_a_turn_passes_to_the_next_when_a_client_leaves() -> None:
    clients = Clients("sequential", "abc")
    waiting = clients.send("b", "forward")
    clients.send("a", "ask_norms")
    clients.order.leave("a", is_lost=False)
    assert isinstance(waiting, Future) and waiting.done()
    # The step that a had begun is forgotten.
    assert clients.log.done[-2:] == [("join",), ("forward", "b")]
    clients.send("b", "step")
    clients.send("c", "step")
    assert not isinstance(clients.send("b", "forward"), Future)


def test_a_step_of_all_waits_for_all_and_takes_the_smallest_clip_coefficient() -> None:
    clients = Clients("concurrent")
    norms = clients.send("b", "ask_norms")
    assert isinstance(norms, Future) and not norms.done()
    assert not isinstance(clients.send("a", "forward"), Future)
    first = clients.send("a", "step", clip=0.25)
    # Gradients are added in the order of the names, whoever comes first.
    assert clients.log.done[-2:] == [("join", "a", "b"), ("ask_norms", "b")]
    assert norms.done() and isinstance(first, Future) and not first.done()
    clients.send("b", "step", clip=0.5)
    assert clients.log.done[-1] == ("step", 0.25)
    assert first.done() and [entry[0] for entry in clients.log.done].count("scale") == 2


def test_others_go_on_without_a_client_that_is_done() -> None:
    clients = Clients("concurrent")
    step = clients.send("a", "step")
    clients.order.leave("b", is_lost=False)
    assert isinstance(step, Future) and step.done() and clients.log.done[-2:] == [("join", "a"), ("step", None)]


@pytest.mark.parametrize("order", ["sequential", "concurrent"])
def test_all_are_told_if_one_is_lost(order: str) -> None:
    clients = Clients(order)
    waiting = clients.send("b", "step")
    clients.order.leave("a", is_lost=True)
    assert isinstance(waiting, Future)
    for answer in (waiting.result(0), clients.send("b", "forward")):
        assert not isinstance(answer, Future)
        assert answer[0].error.is_final
        assert answer[0].error.sentence.startswith("a was lost, and the part cannot go on without it as it would have; have")


@pytest.mark.parametrize("order", ["sequential", "concurrent"])
def test_a_step_that_is_refused_is_not_taken(order: str) -> None:
    clients = Clients(order)
    assert not isinstance(clients.send("a", "step", fails=True), Future)
    assert ("step", None) not in clients.log.done


def test_clients_without_an_order_are_refused() -> None:
    for names, order, steps, sentence in (
        (("a", "a"), "sequential", 1, r"clients is \['a', 'a'\]; with an order, name each client once"),
        (("a",), "free", 1, "order is 'free'; use one of sequential, concurrent"),
        (("a",), "sequential", 0, "steps is 0; use 1 or more"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Sharing(names, order, steps)
