"""States on their way between one client and the server, piece by piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import torch

from splitlearn.parties.errors import PartyError
from splitlearn.parties.forward_checks import ServerLimits
from splitlearn.parties.pieces import Gathered, Piece, divide
from splitlearn.parties.protocol import party_pb2 as pb


class StateExchange:
    """Keeps the pieces of a state that have yet to be asked for, and those that have come.

    Args:
        client: the client's name.
    """

    def __init__(self, client: str) -> None:
        self._client = client
        self._outgoing: deque[Piece] = deque()
        self._incoming: Gathered | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a state has begun to cross and has not done so to its end."""
        return bool(self._outgoing) or self._incoming is not None

    def forget(self) -> None:
        """Let go of states that are under way."""
        self._outgoing.clear()
        self._incoming = None

    def send(
        self, told: pb.AskState, write: Callable[[dict[str, torch.Tensor]], pb.Value], limits: ServerLimits, copies: bool
    ) -> tuple[pb.Head, dict[str, torch.Tensor]]:
        """Return the next piece of a state.

        Args:
            told: what the client asks for.
            write: returns the state, and adds its tensors, which may share memory with the part.
            limits: how large a piece may be.
            copies: whether the part may change between two pieces.

        Raises:
            PartyError: there is no such piece.
        """
        answer = pb.State(what=told.what)
        if told.piece == 0:
            tensors: dict[str, torch.Tensor] = {}
            answer.value.CopyFrom(write(tensors))
            pieces = divide(tensors, limits.wire.max_message_bytes, limits.wire.max_tensors)
            if copies and len(pieces) > 1:
                for piece in pieces:
                    piece.tensors = {name: tensor.clone() for name, tensor in piece.tensors.items()}
            self._outgoing = deque(pieces)
            answer.num_pieces = len(pieces)
        if not self._outgoing:
            raise PartyError(f"{self._client} asks for a piece of a state that there is not; ask for the first one first")
        first = self._outgoing.popleft()
        answer.divided.extend(first.divided)
        return pb.Head(state=answer), first.tensors

    def take(
        self, told: pb.LoadState, tensors: Mapping[str, torch.Tensor], limits: ServerLimits
    ) -> dict[str, torch.Tensor] | None:
        """Take the next piece of a state, and return all tensors once it is the last.

        Args:
            told: what the client says of the piece.
            tensors: the piece.
            limits: how large the state may be.

        Raises:
            PartyError: it does not follow the piece before.
            WireError: the state is too large, or its pieces do not fit each other.
        """
        if told.piece == 0:
            self._incoming = Gathered(limits.max_state_bytes, self._client)
        if self._incoming is None or told.piece != self._incoming.num_pieces:
            raise PartyError(f"{self._client} sent piece {told.piece} of a state, which does not follow the one before")
        gathered = self._incoming
        gathered.add(tensors, told.divided)
        if told.piece + 1 < told.num_pieces:
            return None
        self._incoming = None
        return gathered.all()
