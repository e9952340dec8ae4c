"""Large states cross in pieces, and what comes out is what went in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.parties import InProcessConnection, PartyError, ServerLimits, WireError, WireLimits, party_pb2
from splitlearn.parties.connection import ask
from splitlearn.parties.pieces import Gathered, Piece, divide
from tests.parties.test_part_server import remote, serve

TENSORS = {
    "weight": torch.arange(24.0).reshape(4, 6),
    "transposed": torch.arange(24.0).reshape(4, 6).T,
    "step": torch.tensor(3.0),
    "empty": torch.empty(0, 5),
    "halves": torch.arange(9, dtype=torch.bfloat16),
    "bytes": torch.arange(40, dtype=torch.uint8),
}


@pytest.mark.parametrize("max_bytes", [3, 16, 50, 10_000])
@pytest.mark.parametrize("max_tensors", [1, 100])
def test_pieces_make_the_whole(max_bytes: int, max_tensors: int) -> None:
    pieces = divide(TENSORS, max_bytes, max_tensors)
    assert all(len(piece.tensors) <= max(max_tensors, 2) for piece in pieces)
    assert all(sum(tensor.nbytes for tensor in piece.tensors.values()) <= max(max_bytes, 8) for piece in pieces)
    gathered = Gathered(1_000, "alice")
    for piece in pieces:
        gathered.add(piece.tensors, piece.divided)
    found = gathered.all()
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_nothing_is_a_piece_too() -> None:
    assert divide({}, 10, 10) == [Piece()]


WHOLE = party_pb2.Tensor(name="a", dtype="float32", shape=[4])
WRONG: dict[str, tuple[list[Piece], str]] = {
    "too much": ([Piece({"a": torch.zeros(200)})], r"have 800 bytes, and at most 500 are allowed \(max_state_bytes\)"),
    "too much to come": ([Piece({}, [party_pb2.Tensor(name="a", dtype="int8", shape=[1 << 50])])], "at most 500 are allowed"),
    "a part only": ([Piece({"a": torch.zeros(3)}, [WHOLE])], "alice sent only a part of the tensor 'a'"),
    "too many numbers": ([Piece({"a": torch.zeros(5)}, [WHOLE])], "which do not fit each other"),
    "another dtype": ([Piece({"a": torch.zeros(4, dtype=torch.int32)}, [WHOLE])], "which do not fit each other"),
    "two at once": ([Piece({}, [WHOLE, party_pb2.Tensor(name="b", dtype="int8", shape=[4])])], "which do not fit each other"),
    "a negative size": ([Piece({}, [party_pb2.Tensor(name="a", dtype="int8", shape=[-4])])], "which do not fit each other"),
    "no dtype": ([Piece({}, [party_pb2.Tensor(name="a", dtype="object", shape=[4])])], "which do not fit each other"),
    "twice": ([Piece({"a": torch.zeros(1)}), Piece({"a": torch.zeros(1)})], "two tensors of the name 'a' in one state"),
}


@pytest.mark.parametrize("name", WRONG)
def test_pieces_that_do_not_fit_are_refused(name: str) -> None:
    pieces, words = WRONG[name]
    gathered = Gathered(500, "alice")

    def take() -> None:
        for piece in pieces:
            gathered.add(piece.tensors, piece.divided)
        gathered.all()

    with pytest.raises(WireError, match=words):
        take()


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_part_that_is_larger_than_any_message_crosses(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = tiny_checkpoint("llama")
    limits = WireLimits(max_message_bytes=20_000, max_tensors=3)
    state = remote(serve(checkpoint), checkpoint).owner.state()
    assert max(tensor.nbytes for tensor in state["state_dict"].values()) > 20_000
    part = remote(serve(checkpoint, wire=limits), checkpoint)
    assert_equal(part.owner.state()["state_dict"], state["state_dict"])
    changed = {name: tensor + 1 for name, tensor in state["state_dict"].items()}
    part.owner.load_state({**state, "num_steps": 7, "state_dict": changed})
    found = part.owner.state()
    assert found["num_steps"] == 7
    assert_equal(found["state_dict"], changed)


def test_a_state_that_the_server_does_not_take_is_told_before_it_is_sent(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = tiny_checkpoint("llama")
    part = remote(serve(checkpoint, max_state_bytes=1000), checkpoint)
    sent = part.connection.sent_bytes
    with pytest.raises(
        ValueError, match=r"the state to go on from has [\d,]+ bytes, and .* takes at most 1,000; have its holder"
    ):
        part.owner.load_state(part.owner.state() | {"codecs": {}})
    assert part.connection.sent_bytes - sent < 2_000


def test_pieces_out_of_order_are_refused_and_the_part_is_as_it_was(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = tiny_checkpoint("llama")
    part = remote(serve(checkpoint, wire=WireLimits(max_message_bytes=20_000)), checkpoint)
    before = part.owner.state()
    connection = part.connection
    assert isinstance(connection, InProcessConnection)
    with pytest.raises(PartyError, match="alice sent piece 1 of a state, which does not follow the one before"):
        ask(connection, party_pb2.Head(load_state=party_pb2.LoadState(what="state", piece=1, num_pieces=3)))
    with pytest.raises(PartyError, match="alice asks for a piece of a state that there is not"):
        ask(connection, party_pb2.Head(ask_state=party_pb2.AskState(what="state", piece=1)))
    ask(connection, party_pb2.Head(load_state=party_pb2.LoadState(what="state", num_pieces=2)), {"a": torch.ones(9)})
    session = connection.conversation.session
    assert session is not None and session.states.is_under_way
    # Whatever comes between two pieces ends the state.
    ask(connection, party_pb2.Head(zero_gradients=party_pb2.ZeroGradients()))
    assert not session.states.is_under_way
    assert_equal(part.owner.state()["state_dict"], before["state_dict"])


def test_limits_of_states_are_positive() -> None:
    with pytest.raises(ValueError, match="max_state_bytes is 0; use a number above 0"):
        ServerLimits(max_state_bytes=0)
