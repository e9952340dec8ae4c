"""Messages are carried out once and in order over mutual TLS, although connections break."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from splitlearn.certificates import Identity
from splitlearn.parties import (
    GrpcConnection,
    Message,
    PartyError,
    PartyLostError,
    Patience,
    ServiceSettings,
    WireError,
    WireLimits,
    party_pb2,
)
from tests.parties.conftest import LIMITS, QUICK, Serve, Served, hello
from tests.parties.cut_link import CutLink

Identify = Callable[..., Identity]


class Connected(GrpcConnection):
    """A connection that has said hello, and is closed in the end."""

    def __init__(self, target: str, identity: Identity | None, settings: Patience = QUICK) -> None:
        super().__init__(target, identity, settings, LIMITS, "the trunk's server")
        self.welcome = self.wait(self.post(hello())).head.welcome

    def ask(self, tensors: dict[str, torch.Tensor] | None = None, **body: Any) -> Message:
        return self.wait(self.post(party_pb2.Head(**body), tensors))

    def pause(self, milliseconds: int = 0) -> int:
        return self.post(party_pb2.Head(seed=party_pb2.Seed(seed=milliseconds)))

    def step(self, number: int) -> int:
        values = torch.full((8,), 2.0**number)
        return self.post(party_pb2.Head(step=party_pb2.Step(number=number)), {"values": values})

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.ask({"values": values}, forward=party_pb2.Forward(kind="train")).tensors["doubled"]

    def count_to(self, steps: int) -> None:
        """Forward and step like a training run, whose steps are not waited for."""
        for number in range(steps):
            values = torch.full((40_000,), float(number))
            assert self.forward(values).equal(values * 2)
            self.step(number)
        assert self.wait(self.pause()).kind == "done"

    def __enter__(self) -> Connected:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def check_counted(served: Served, steps: int) -> None:
    assert served.counting.numbers == list(range(steps))
    assert served.counting.total == 8 * (2.0**steps - 1)


def test_messages_are_answered_over_mutual_tls(serve: Serve, identity: Identify) -> None:
    served = serve()
    with Connected(served.target, identity("alice")) as connection:
        assert connection.party == f"the trunk's server at {served.target}"
        assert served.service.clients == ["alice"]
        connection.count_to(3)
    check_counted(served, 3)
    assert (served.counting.greeted, served.counting.ended, served.service.clients) == (["alice"], ["alice"], [])
    tensors = 3 * 160_000
    assert tensors < connection.received_bytes < 1.003 * tensors
    assert tensors + 96 < connection.sent_bytes < 1.003 * tensors
    assert 0 < connection.server_seconds < connection.waited_seconds
    assert connection.reconnects == 0


def test_a_large_message_comes_in_many_frames(serve: Serve, identity: Identify) -> None:
    values = torch.randn(2, 1 << 19)
    assert values.nbytes == LIMITS.max_message_bytes
    with Connected(serve().target, identity("alice")) as connection:
        assert connection.forward(values).equal(values * 2)


def test_several_messages_may_be_on_their_way(serve: Serve, identity: Identify) -> None:
    with Connected(serve().target, identity("alice")) as connection:
        forward = party_pb2.Forward()
        numbers = [connection.post(party_pb2.Head(forward=forward), {"values": torch.tensor([float(i)])}) for i in range(5)]
        assert numbers == [1, 2, 3, 4, 5]
        assert [connection.wait(number).tensors["doubled"].item() for number in reversed(numbers)] == [8, 6, 4, 2, 0]


def test_a_tensor_may_be_changed_once_it_is_posted(serve: Serve, identity: Identify) -> None:
    with Connected(serve().target, identity("alice")) as connection:
        values = torch.ones(4)
        number = connection.post(party_pb2.Head(forward=party_pb2.Forward()), {"values": values})
        values.zero_()
        assert connection.wait(number).tensors["doubled"].tolist() == [2.0] * 4


def test_several_threads_may_ask(serve: Serve, identity: Identify) -> None:
    results: dict[int, float] = {}

    def ask(value: int) -> None:
        results[value] = connection.forward(torch.tensor([float(value)])).item()

    with Connected(serve().target, identity("alice")) as connection:
        threads = [threading.Thread(target=ask, args=(value,)) for value in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {value: 2.0 * value for value in range(8)}


def test_forward_calls_that_were_let_go_of_are_told_once(serve: Serve, identity: Identify) -> None:
    served = serve()
    with Connected(served.target, identity("alice")) as connection:
        connection.drop(3)
        connection.drop(4)
        with pytest.raises(WireError):
            connection.ask({"x": torch.zeros(1, device="meta")}, seed=party_pb2.Seed())
        connection.wait(connection.pause())
        connection.wait(connection.pause())
    assert served.counting.dropped == [3, 4]


def test_answers_that_nobody_fetches_are_not_kept(serve: Serve, identity: Identify) -> None:
    with Connected(serve().target, identity("alice")) as connection:
        for number in range(20):
            connection.step(number)
        dropped = connection.post(party_pb2.Head(forward=party_pb2.Forward()), {"values": torch.ones(9)})
        connection.drop(dropped)
        connection.wait(connection.pause())
        assert connection._calls == {}


@pytest.mark.parametrize(
    "cut_after", [(6_000, 170_000, 400_000), (5_000, 5_500, 6_000, 320_000), (180_000,) * 6, (350_001, 3_000, 350_003)], ids=str
)
def test_a_reset_anywhere_neither_loses_nor_repeats_a_step(
    serve: Serve, identity: Identify, cut_after: tuple[int, ...]
) -> None:
    """The connection is cut in hello, in a message or in an answer; each step is taken once all the same."""
    served = serve()
    with CutLink(served.port) as link, Connected(f"localhost:{link.port}", identity("alice")) as connection:
        link.cut_after = list(cut_after)
        link.cut()
        connection.count_to(6)
        assert connection.reconnects >= 1
        assert link.num_connections >= 3
    check_counted(served, 6)
    assert served.counting.greeted == ["alice"]


def test_a_message_that_is_carried_out_during_a_reset_is_not_sent_again(serve: Serve, identity: Identify) -> None:
    served = serve()
    with CutLink(served.port) as link, Connected(f"localhost:{link.port}", identity("alice")) as connection:
        numbers = [connection.pause(800), connection.step(0)]
        time.sleep(0.2)
        link.cut()
        assert [connection.wait(number).kind for number in numbers] == ["done", "done"]
        assert connection.reconnects == 1
    check_counted(served, 1)


def test_a_server_that_is_gone_is_given_up_after_the_stated_time(serve: Serve, identity: Identify) -> None:
    served = serve()
    connection = Connected(served.target, identity("alice"), replace(QUICK, reconnect=0.6))
    served.server.stop(0).wait()
    began = time.monotonic()
    with pytest.raises(
        PartyLostError, match=r"the trunk's server at localhost:\d+ cannot be reached \(Connection refused\); check"
    ):
        connection.wait(connection.pause())
    assert time.monotonic() - began < 15
    with pytest.raises(PartyLostError, match="cannot be reached"):
        connection.pause()
    assert not connection.is_open
    connection.close()


def test_without_reconnecting_a_reset_ends_the_connection(serve: Serve, identity: Identify) -> None:
    settings = replace(QUICK, reconnect=0)
    with CutLink(serve().port) as link, Connected(f"localhost:{link.port}", identity("alice"), settings) as connection:
        number = connection.pause(300)
        link.cut()
        with pytest.raises(PartyLostError, match=r"the connection to the trunk's server at localhost:\d+ broke"):
            connection.wait(number)


def test_a_silent_link_is_noticed_by_the_signs_of_life(serve: Serve, identity: Identify) -> None:
    """A cable is pulled out: no end of the connection is told."""
    settings = replace(QUICK, reconnect=1.0)
    with CutLink(serve().port) as link, Connected(f"localhost:{link.port}", identity("alice"), settings) as connection:
        link.stall()
        began = time.monotonic()
        with pytest.raises(PartyLostError, match=r"did not answer within|broke"):
            connection.wait(connection.pause())
        assert time.monotonic() - began < 15


def test_an_answer_that_takes_too_long_is_given_up(serve: Serve, identity: Identify) -> None:
    connection = Connected(serve().target, identity("alice"), replace(QUICK, answer=0.2))
    with pytest.raises(PartyLostError, match=r"the trunk's server at .* did not answer seed within 0.2 s; see its log"):
        connection.wait(connection.pause(500))


def test_a_client_waits_for_a_server_that_starts(serve: Serve, identity: Identify) -> None:
    served = serve()
    with CutLink(served.port) as link:
        port = link.port
    kinds: list[str] = []

    def wait() -> None:
        with Connected(f"localhost:{port}", identity("alice"), replace(QUICK, connect=30.0)) as connection:
            kinds.append(connection.wait(connection.pause()).kind)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.4)
    with CutLink(served.port, port):
        thread.join(30)
    assert kinds == ["done"]


def test_a_refusal_is_told_and_the_session_goes_on(serve: Serve, identity: Identify) -> None:
    with Connected(serve().target, identity("alice")) as connection:
        with pytest.raises(PartyError, match=r"the trunk's server at .* refuses: there are no gradients") as refusal:
            connection.ask(ask_norms=party_pb2.AskNorms())
        assert refusal.value.kind == party_pb2.ERROR_KIND_STEP
        with pytest.raises(PartyError, match=r"list_checkpoints failed there \(KeyError: 'list_checkpoints'\); see") as fault:
            connection.ask(list_checkpoints=party_pb2.ListCheckpoints())
        assert fault.value.kind == party_pb2.ERROR_KIND_INTERNAL
        assert connection.forward(torch.ones(2)).tolist() == [2, 2]


def test_a_refusal_that_nobody_waits_for_is_told_by_the_next_answer(serve: Serve, identity: Identify) -> None:
    with Connected(serve().target, identity("alice")) as connection:
        connection.post(party_pb2.Head(ask_norms=party_pb2.AskNorms()))
        with pytest.raises(PartyError, match="there are no gradients"):
            connection.forward(torch.ones(2))
        assert connection.forward(torch.ones(2)).tolist() == [2, 2]


def test_an_answer_may_wait_for_another_client(serve: Serve, identity: Identify) -> None:
    """What the first client sends meanwhile waits; the other client goes on."""
    served = serve()
    with Connected(served.target, identity("alice")) as alice, Connected(served.target, identity("bob")) as bob:
        first = alice.post(party_pb2.Head(zero_gradients=party_pb2.ZeroGradients()))
        alice.step(1)
        bob.step(0)
        bob.wait(bob.pause())
        assert served.counting.numbers == [0]
        second = bob.post(party_pb2.Head(zero_gradients=party_pb2.ZeroGradients()))
        assert [alice.wait(first).head.done.text, bob.wait(second).head.done.text] == ["together"] * 2
        alice.wait(alice.pause())
        assert served.counting.numbers == [0, 1]


def test_a_plan_that_differs_is_refused_at_once(serve: Serve, identity: Identify) -> None:
    served = serve()
    connection = GrpcConnection(served.target, identity("alice"), QUICK, LIMITS)
    with pytest.raises(PartyError, match="refuses: the model is another"):
        connection.post(hello(model_name="another"))
    assert served.service.clients == []


def test_hello_comes_first_and_once(serve: Serve, identity: Identify) -> None:
    served = serve()
    with pytest.raises(ValueError, match="the first message must be hello, and no other; this is seed"):
        GrpcConnection(served.target, identity("alice"), QUICK).post(party_pb2.Head(seed=party_pb2.Seed()))
    with Connected(served.target, identity("alice")) as connection, pytest.raises(ValueError, match="this is hello"):
        connection.post(hello())


def test_a_second_process_of_a_client_is_refused_while_the_first_is_connected(serve: Serve, identity: Identify) -> None:
    served = serve()
    with Connected(served.target, identity("alice")), Connected(served.target, identity("bob")):
        with pytest.raises(PartyError, match="alice has a session already; if its process has ended") as refusal:
            Connected(served.target, identity("alice"))
        assert refusal.value.kind == party_pb2.ERROR_KIND_BUSY


def test_a_client_that_was_killed_begins_anew(serve: Serve, identity: Identify) -> None:
    served = serve()
    with CutLink(served.port) as link:
        killed = Connected(f"localhost:{link.port}", identity("alice"))
        killed.wait(killed.step(0))
        killed._is_closing = True
    while any(mailbox.is_connected for mailbox in served.service._mailboxes.all()):
        time.sleep(0.02)
    with Connected(served.target, identity("alice")) as connection:
        assert connection.welcome.num_steps == 1
    assert served.counting.ended == served.counting.greeted == ["alice", "alice"]


def test_no_more_clients_than_allowed(serve: Serve, identity: Identify) -> None:
    served = serve(ServiceSettings(max_clients=1))
    refused = pytest.raises(PartyError, match=r"1 clients have sessions, and no more may \(max_clients of the server\)")
    with Connected(served.target, identity("alice")), refused:
        Connected(served.target, identity("bob"))
    Connected(served.target, identity("bob")).close()


def test_a_session_that_nobody_comes_back_to_is_forgotten(serve: Serve, identity: Identify) -> None:
    served = serve(ServiceSettings(session_seconds=0.4))
    with CutLink(served.port) as link:
        connection = Connected(f"localhost:{link.port}", identity("alice"), replace(QUICK, reconnect=60.0))
        link.refuses = True
        link.cut()
        while served.counting.ended != ["alice"]:
            time.sleep(0.02)
        assert served.service.clients == []
        link.refuses = False
        with pytest.raises(PartyError, match=r"the session of alice is over: it had no connection for") as refusal:
            connection.wait(connection.pause())
    assert refusal.value.kind == party_pb2.ERROR_KIND_SESSION


def test_a_token_is_of_use_to_its_client_alone(serve: Serve, identity: Identify) -> None:
    served = serve()
    with Connected(served.target, identity("alice")) as connection:
        stolen = party_pb2.Head(hello=party_pb2.Hello(session=connection.welcome.session))
        with pytest.raises(PartyError, match="the session of bob is over"):
            GrpcConnection(served.target, identity("bob"), QUICK, LIMITS).post(stolen)
        assert connection.wait(connection.pause()).kind == "done"


def test_a_server_that_ends_tells_its_clients_once_their_messages_are_carried_out(serve: Serve, identity: Identify) -> None:
    served = serve()
    connection = Connected(served.target, identity("alice"))
    numbers = [connection.pause(300), connection.step(0)]
    time.sleep(0.1)
    served.service.stop("the server is about to end")
    assert [connection.wait(number).kind for number in numbers] == ["done", "done"]
    with pytest.raises(PartyError, match="refuses: the server is about to end") as refusal:
        connection.wait(connection.pause())
    assert refusal.value.is_final
    with pytest.raises(PartyError, match="the server is about to end"):
        Connected(served.target, identity("bob"))


def test_a_message_that_the_server_would_not_take_is_not_sent(serve: Serve, identity: Identify) -> None:
    with Connected(serve(limits=WireLimits(max_message_bytes=1000)).target, identity("alice")) as connection:
        with pytest.raises(WireError, match=r"forward would send 1,004 bytes at once, and .* takes at most 1,000"):
            connection.forward(torch.zeros(251))
        assert connection.forward(torch.ones(250)).sum() == 500


def test_an_answer_may_be_larger_than_what_the_server_takes(serve: Serve, identity: Identify) -> None:
    """The state of a part is: it is asked for when a checkpoint is written."""
    served = serve(limits=WireLimits(max_message_bytes=1000))
    connection = GrpcConnection(served.target, identity("alice"), QUICK)
    connection.wait(connection.post(hello()))
    state = connection.wait(connection.post(party_pb2.Head(ask_state=party_pb2.AskState(what="state"))))
    assert state.tensors["state"].nbytes == 400_000
    connection.wait(connection.post(party_pb2.Head(seed=party_pb2.Seed())))
    connection.close()
