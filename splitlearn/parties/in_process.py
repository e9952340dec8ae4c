"""A party in this process, reached through the bytes that it would be sent over a network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future

import torch

from splitlearn.parties.connection import error_of
from splitlearn.parties.conversation import Conversation
from splitlearn.parties.errors import PartyError
from splitlearn.parties.part_server import PartServer
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.wire import Message, MessageReader, write_message
from splitlearn.parties.wire_checks import WireLimits


class InProcessConnection:
    """Has a server of this process carry out each message as it is posted.

    Args:
        server: the holder of a part.
        client: the name by which the server knows this client.

    Attributes:
        conversation: as the server has it.
    """

    def __init__(self, server: PartServer, client: str = "client") -> None:
        self.party = f"the server of the {server.part_name}"
        self.sent_bytes = self.received_bytes = self.server_peak_bytes = 0
        self.waited_seconds = self.server_seconds = 0.0
        self.conversation = Conversation(server, client)
        self._readers = MessageReader(WireLimits(), client), MessageReader(WireLimits(), self.party)
        self._next = 0
        self._answers: dict[int, Message] = {}
        self._dropped: list[int] = []
        self._refused: PartyError | None = None

    def post(self, head: pb.Head, tensors: Mapping[str, torch.Tensor] | None = None) -> int:
        """Send a message, which is carried out at once; see `Connection.post`."""
        if self._refused is not None and self._refused.is_final:
            raise self._refused
        head.call = self._next
        self._next += 1
        head.dropped.extend(self._dropped)
        self._dropped.clear()
        asker, answerer = self._readers
        sent = _carry(write_message(head, tensors), asker)
        self.sent_bytes += sent.num_bytes
        began = time.perf_counter()
        answered = self.conversation.answer(sent)
        if isinstance(answered, Future):
            # Only another thread could send what it waits for.
            raise RuntimeError("a server of this process trains with one client; for several, connect each over gRPC")
        answer = _carry(write_message(*answered), answerer)
        self.waited_seconds += time.perf_counter() - began
        self.received_bytes += answer.num_bytes
        self.server_seconds += answer.head.seconds
        self.server_peak_bytes = max(self.server_peak_bytes, answer.head.done.peak_rss_bytes)
        self._answers[head.call] = answer
        error = error_of(answer)
        if error is not None and self._refused is None:
            self._refused = error
        return head.call

    def wait(self, number: int) -> Message:
        """Return the answer to a message, once; see `Connection.wait`."""
        if self._refused is not None:
            error = self._refused
            if not error.is_final:
                self._refused = None
            raise error
        answer = self._answers.pop(number)
        for earlier in [one for one in self._answers if one < number and self._answers[one].kind == "done"]:
            del self._answers[earlier]
        return answer

    def drop(self, number: int) -> None:
        """Tell the server that the backward pass of a forward call will never come."""
        self._dropped.append(number)

    def close(self) -> None:
        """End the conversation."""
        self.conversation.end()


def _carry(frames: Iterable[bytes], reader: MessageReader) -> Message:
    (message,) = (message for frame in frames if (message := reader.add(frame)) is not None)
    return message
