"""How a message gets to another party and its answer back, whatever carries it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from splitlearn.parties.errors import PartyError
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.wire import Message


class Connection(Protocol):
    """A conversation with the holder of a part. Messages are carried out, and answered, in the order in which they are posted.

    Attributes:
        party: how messages name the other party.
        sent_bytes: bytes that were sent so far, as frames.
        received_bytes: bytes that came so far.
        waited_seconds: how long `wait` has waited.
        server_seconds: how long the other party has computed, as it says itself.
        server_peak_bytes: the most memory that its process has had resident by its last step, as it says itself.
    """

    party: str
    sent_bytes: int
    received_bytes: int
    waited_seconds: float
    server_seconds: float
    server_peak_bytes: int

    def post(self, head: pb.Head, tensors: Mapping[str, torch.Tensor] | None = None) -> int:
        """Send a message without waiting for its answer.

        Args:
            head: it is given its number here.
            tensors: its tensors by name, which must not be changed until the answer has come.

        Returns:
            The number of the message.

        Raises:
            PartyError: an earlier message was refused for good.
            PartyLostError: the other party is lost.
        """

    def wait(self, number: int) -> Message:
        """Return the answer to a message, once.

        Raises:
            PartyError: the message, or an earlier one whose answer nobody waited for, was refused.
            PartyLostError: the other party is lost.
        """

    def drop(self, number: int) -> None:
        """Tell the other party, with the next message, that the backward pass of a forward call will never come."""

    def close(self) -> None:
        """End the conversation."""


def ask(connection: Connection, head: pb.Head, tensors: Mapping[str, torch.Tensor] | None = None) -> Message:
    """Send a message and return its answer; raises as `Connection.wait` does."""
    return connection.wait(connection.post(head, tensors))


def error_of(message: Message) -> PartyError | None:
    """Return the error that a message tells of; None if it tells of none."""
    if message.kind != "error":
        return None
    told = message.head.error
    return PartyError(told.sentence, told.kind, told.is_final)
