"""What a service lets clients do, and what it needs of whoever answers them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import torch

from splitlearn.naming import named
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.wire import Message


@dataclass(frozen=True)
class ServiceSettings:
    """What a service lets clients do.

    Args:
        max_clients: sessions at the same time.
        session_seconds: a session whose client has no connection is forgotten after so long.
        greeting_seconds: a connection that has not said hello is ended after so long.

    Raises:
        ValueError: a limit is not positive.
    """

    max_clients: int = 8
    session_seconds: float = 600.0
    greeting_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            if limit <= 0:
                raise ValueError(f"{named(name)} is {limit}; use more than 0")


# The head of an answer, and its tensors by name.
Answer = tuple[pb.Head, Mapping[str, torch.Tensor]]


class Answerer(Protocol):
    """Answers the messages of one client. All of its methods are called by one thread, which computes for all clients."""

    def answer(self, message: Message) -> Answer | Future[Answer]:
        """Answer a message, of which the first is hello.

        Args:
            message: from the client.

        Returns:
            The answer, which may be an error; or a future, if others must do something first: what the client has sent after
            this message then waits, and other clients go on.
        """

    def end(self) -> None:
        """Let go of what is kept for the client: its session was closed, or has expired."""
