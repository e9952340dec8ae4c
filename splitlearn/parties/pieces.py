"""Large states in pieces, so that no message is larger than its receiver takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import torch

from splitlearn.naming import named
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.wire_checks import DTYPES, WireError, shown

# A piece is kept in memory twice on its way, so it is small beside a state.
_PIECE_BYTES = 1 << 26
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass
class Piece:
    """One message's share of a state.

    Attributes:
        tensors: whole tensors by name, and at most one vector out of a larger tensor, under that tensor's name.
        divided: the larger tensor, in the piece in which it begins.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    divided: list[pb.Tensor] = field(default_factory=list)


def divide(tensors: Mapping[str, torch.Tensor], max_bytes: int, max_tensors: int) -> list[Piece]:
    """Return tensors in pieces, in order; they share memory with the tensors.

    Args:
        tensors: by name.
        max_bytes: the largest message that the receiver takes.
        max_tensors: how many tensors a message may have.
    """
    max_bytes = min(max_bytes, _PIECE_BYTES)
    pieces, room = [Piece()], max_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > max_bytes:
            pieces += _cut(name, tensor, max_bytes)
            room = 0
            continue
        if tensor.nbytes > room or len(pieces[-1].tensors) >= max_tensors:
            pieces.append(Piece())
            room = max_bytes
        pieces[-1].tensors[name] = tensor
        room -= tensor.nbytes
    return [piece for piece in pieces if piece.tensors] or [Piece()]


def _cut(name: str, tensor: torch.Tensor, max_bytes: int) -> Iterator[Piece]:
    """Yield a tensor as vectors, in a piece each."""
    described = [pb.Tensor(name=name, dtype=_NAMES.get(tensor.dtype, str(tensor.dtype)), shape=tensor.shape)]
    for vector in tensor.detach().reshape(-1).split(max(max_bytes // tensor.itemsize, 1)):
        yield Piece({name: vector}, described)
        described = []


class Gathered:
    """The tensors of a state whose pieces come one after the other.

    Args:
        max_bytes: how much is taken in all.
        sender: who sends it, for messages.
    """

    def __init__(self, max_bytes: int, sender: str) -> None:
        self._max_bytes = max_bytes
        self._sender = sender
        self._tensors: dict[str, torch.Tensor] = {}
        # The tensor that is being filled: its name, its memory as a vector, and how many numbers are there.
        self._under_way: tuple[str, torch.Tensor, int] | None = None
        self._num_bytes = 0
        self.num_pieces = 0

    def add(self, tensors: Mapping[str, torch.Tensor], divided: Iterable[pb.Tensor]) -> None:
        """Take the next piece.

        Raises:
            WireError: it is too large with those before, or does not follow them.
        """
        self.num_pieces += 1
        for described in divided:
            self._begin(described)
        for name, tensor in tensors.items():
            if self._under_way is not None and self._under_way[0] == name:
                self._fill(tensor, *self._under_way)
            else:
                self._take(name, tensor)

    def all(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name, once all pieces have come.

        Raises:
            WireError: one is not complete.
        """
        if self._under_way is not None:
            raise WireError(f"{self._sender} sent only a part of the tensor {shown(self._under_way[0])}")
        return self._tensors

    def _begin(self, described: pb.Tensor) -> None:
        shape, dtype = tuple(described.shape), DTYPES.get(described.dtype)
        if dtype is None or self._under_way is not None or any(size < 1 for size in shape):
            raise WireError(f"{self._sender} sent pieces of the tensor {shown(described.name)}, which do not fit each other")
        self._count(described.name, prod(shape) * dtype.itemsize)
        # The system gives memory to an empty tensor as it is written to.
        whole = self._tensors[described.name] = torch.empty(shape, dtype=dtype)
        self._under_way = described.name, whole.view(-1), 0

    def _fill(self, vector: torch.Tensor, name: str, whole: torch.Tensor, begin: int) -> None:
        end = begin + vector.numel()
        if vector.dtype != whole.dtype or vector.dim() != 1 or end > len(whole):
            raise WireError(f"{self._sender} sent pieces of the tensor {shown(name)}, which do not fit each other")
        whole[begin:end] = vector
        self._under_way = (name, whole, end) if end < len(whole) else None

    def _take(self, name: str, tensor: torch.Tensor) -> None:
        self._count(name, tensor.nbytes)
        self._tensors[name] = tensor

    def _count(self, name: str, num_bytes: int) -> None:
        if name in self._tensors:
            raise WireError(f"{self._sender} sent two tensors of the name {shown(name)} in one state")
        self._num_bytes += num_bytes
        if self._num_bytes > self._max_bytes:
            raise WireError(
                f"{self._sender} sent a state whose tensors, up to {shown(name)}, have {self._num_bytes:,} bytes, and at most "
                f"{self._max_bytes:,} are allowed ({named('max_state_bytes')})"
            )
