"""Whatever a client sends, the server goes on, and its memory is bounded."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import torch

from splitlearn.certificates import Identity
from splitlearn.parties import (
    CONVERSE,
    MessageReader,
    PartyError,
    PartyLostError,
    ServiceSettings,
    WireLimits,
    open_channel,
    party_pb2,
    write_message,
)
from splitlearn.parties.mailbox import Mailbox
from tests.parties.conftest import LIMITS, QUICK, Serve, Served, hello
from tests.parties.test_grpc_connection import Connected

Identify = Callable[..., Identity]


class Hostile:
    """Says whatever it likes to a server."""

    def __init__(self, target: str, identity: Identity) -> None:
        # gRPC itself must not hold back what is too large.
        self._channel = open_channel(target, identity, QUICK, LIMITS)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        open_stream: Any = self._channel.stream_stream(CONVERSE)
        self._stream = open_stream(iter(self._outbox.get, None))
        self._reader = MessageReader(LIMITS, "the server")

    def say(self, *frames: bytes) -> None:
        for frame in frames:
            self._outbox.put(frame)

    def hear(self) -> party_pb2.Head:
        """The next answer; one without a body if the server has ended the conversation."""
        for frame in self._stream:
            message = self._reader.add(frame)
            if message is not None:
                return message.head
        return party_pb2.Head()

    def close(self) -> None:
        self._outbox.put(None)
        self._channel.close()


def frames(call: int, tensors: dict[str, torch.Tensor] | None = None, **body: Any) -> list[bytes]:
    return list(write_message(party_pb2.Head(call=call, **body), tensors))


@contextlib.contextmanager
def hostile(served: Served, identity: Identity, greets: bool = True) -> Iterator[Hostile]:
    client = Hostile(served.target, identity)
    try:
        if greets:
            client.say(*write_message(hello()))
            assert client.hear().HasField("welcome")
        yield client
    finally:
        client.close()


LYING = party_pb2.Head(
    call=1,
    forward=party_pb2.Forward(),
    payload_bytes=1 << 40,
    tensors=[party_pb2.Tensor(name="values", dtype="float32", shape=[1 << 38])],
)
SAID: dict[str, tuple[list[bytes], str]] = {
    "random bytes": ([bytes(range(200))], "alice sent a frame with an unexpected field"),
    "a terabyte": (
        [party_pb2.Frame(head=LYING).SerializeToString()],
        "would take 1,099,511,627,776 bytes",
    ),
    "a gap": (frames(2, seed=party_pb2.Seed()), "alice sent message 2 after message 0"),
    "an answer": (frames(1, outputs=party_pb2.Outputs()), ""),
    "hello again": (frames(1, hello=party_pb2.Hello()), ""),
}


@pytest.mark.parametrize("name", SAID)
def test_a_hostile_client_is_told_why_and_others_go_on(serve: Serve, identity: Identify, name: str) -> None:
    served = serve()
    sent, said = SAID[name]
    with Connected(served.target, identity("bob")) as bob, hostile(served, identity("alice")) as alice:
        alice.say(*sent)
        answer = alice.hear()
        if said:
            assert answer.error.is_final
            assert said in answer.error.sentence
            assert not alice.hear().WhichOneof("body")
            assert served.service.clients == ["bob"]
        assert bob.forward(torch.ones(2)).tolist() == [2, 2]


def test_a_conversation_begins_with_hello(serve: Serve, identity: Identify) -> None:
    served = serve()
    with hostile(served, identity("alice"), greets=False) as alice:
        alice.say(*frames(1, seed=party_pb2.Seed()))
        assert alice.hear().error.sentence == "alice sent seed before hello"
    assert served.service.clients == []


def test_a_frame_that_is_too_large_is_refused_before_it_is_taken(serve: Serve, identity: Identify) -> None:
    served = serve()
    with hostile(served, identity("alice")) as alice:
        alice.say(party_pb2.Frame(payload=bytes(LIMITS.max_frame_bytes + 1)).SerializeToString())
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            alice.hear()


def test_a_message_that_comes_twice_is_carried_out_once(serve: Serve, identity: Identify) -> None:
    served = serve()
    step = frames(1, {"values": torch.ones(2)}, step=party_pb2.Step(number=7))
    with hostile(served, identity("alice")) as alice:
        alice.say(*step, *step, *frames(2, seed=party_pb2.Seed()))
        assert [alice.hear().call for _ in range(2)] == [1, 2]
    assert served.counting.numbers == [7]


def test_a_connection_that_says_nothing_is_ended(serve: Serve, identity: Identify) -> None:
    served = serve(ServiceSettings(greeting_seconds=0.2))
    with hostile(served, identity("alice"), greets=False) as alice, pytest.raises(grpc.RpcError, match="CANCELLED"):
        alice.hear()


def test_a_client_waits_for_its_welcome_as_long_as_it_likes(serve: Serve, identity: Identify) -> None:
    """The server computes for another one for longer than a connection may say nothing."""
    served = serve(ServiceSettings(greeting_seconds=0.2))
    with Connected(served.target, identity("alice")) as alice:
        alice.pause(1500)
        with pytest.raises(PartyLostError, match=r"did not answer within 0\.5 s"):
            Connected(served.target, identity("bob"), replace(QUICK, connect=0.5))
        with Connected(served.target, identity("bob")) as bob:
            assert bob.ask(seed=party_pb2.Seed(seed=0)).kind == "done"
    # The one that did not wait is not greeted once its turn has come.
    assert served.counting.greeted == ["alice", "bob"]


def test_a_client_that_acknowledges_nothing_is_ended(serve: Serve, identity: Identify) -> None:
    served = serve(limits=WireLimits(max_message_bytes=1000))
    forward = party_pb2.Forward()
    with hostile(served, identity("alice")) as alice:
        for call in range(1, 8):
            alice.say(*frames(call, {"values": torch.ones(250)}, forward=forward))
        answers = [alice.hear() for _ in range(4)]
        assert [answer.WhichOneof("body") for answer in answers] == ["outputs", "outputs", "outputs", "error"]
        assert "alice has not acknowledged 3 answers of" in answers[-1].error.sentence
        assert answers[-1].error.kind == party_pb2.ERROR_KIND_LIMIT


def test_a_client_that_sends_faster_than_the_part_computes_waits(serve: Serve, identity: Identify) -> None:
    served = serve(limits=WireLimits(max_message_bytes=1000))
    step = party_pb2.Step(number=1)
    with Connected(served.target, identity("alice")) as connection:
        connection.pause(1500)
        for _ in range(40):
            connection.post(party_pb2.Head(step=step), {"values": torch.ones(250)})
        time.sleep(0.3)
        (mailbox,) = served.service._mailboxes.all()
        assert mailbox.last_call < 10
        connection.wait(connection.pause())
    assert len(served.counting.numbers) == 40


def test_a_connection_that_takes_the_place_of_another_ends_it() -> None:
    mailbox = Mailbox("token", "alice", answerer=None, max_bytes=100)  # type: ignore[arg-type]
    first: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    second: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    mailbox.attach(first, [b"welcome"], 0)
    mailbox.attach(second, [b"again"], 0)
    mailbox.detach(first)
    assert mailbox.is_connected
    assert [first.get(), first.get(), second.get()] == [b"welcome", None, b"again"]
    mailbox.end([b"farewell"])
    assert [second.get(), second.get()] == [b"farewell", None]
    with pytest.raises(PartyError, match="the session of alice has just ended"):
        mailbox.attach(first, [], 0)


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_clients is 0; use more than 0"):
        ServiceSettings(max_clients=0)
