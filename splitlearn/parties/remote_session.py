"""The key-value cache that the holder of a part keeps for one generation, as the client has it: a number."""

from __future__ import annotations

from typing import Any

import torch

from splitlearn.parties.connection import Connection
from splitlearn.parties.errors import PartyError, PartyLostError
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.values import write_value


class SharedSession:
    """The cache of a part whose holder keeps it in the session of another part, through which it is changed and ended.

    Attributes:
        num_cached_tokens: how many tokens the part has seen in earlier calls.
    """

    num_cached_tokens = 0

    def change(self, name: str, *arguments: Any) -> None:
        """Leave the change to the other part's session."""

    def end(self) -> None:
        """Leave the end to the other part's session."""


class RemoteSession:
    """A generation under way at the holder of a part.

    Args:
        connection: a conversation with the holder.
        number: the client's number of the generation.

    Attributes:
        number: the same.
        num_cached_tokens: how many tokens the part has seen in earlier calls.
    """

    def __init__(self, connection: Connection, number: int) -> None:
        self.number = number
        self.num_cached_tokens = 0
        self._connection = connection
        connection.post(pb.Head(begin_session=pb.BeginSession(session=number)))

    def change(self, name: str, *arguments: Any) -> None:
        """Change the cache as the method ``name`` of transformers' ``Cache`` does."""
        tensors: dict[str, torch.Tensor] = {}
        value = write_value(tuple(arguments), tensors)
        told = pb.ChangeSession(session=self.number, method=name, arguments=value)
        self._connection.post(pb.Head(change_session=told), tensors)
        if name == "crop":
            # As transformers' layers count: a negative number is how many are cut off.
            (most,) = arguments
            self.num_cached_tokens = min(most, self.num_cached_tokens) if most >= 0 else self.num_cached_tokens + most
        elif name == "reset":
            self.num_cached_tokens = 0

    def end(self) -> None:
        """Have the holder forget the cache."""
        try:
            self._connection.post(pb.Head(end_session=pb.EndSession(session=self.number)))
        except (PartyError, PartyLostError):
            # Whoever ends a generation may do so because the holder is lost.
            return
