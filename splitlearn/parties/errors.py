"""Errors that another party causes, each one sentence that names it."""

from __future__ import annotations

from splitlearn.parties.protocol import party_pb2 as pb


class PartyError(ValueError):
    """Another party refuses what was asked of it.

    Args:
        sentence: what it says.
        kind: of the protocol's ``ErrorKind``.
        is_final: whether nothing more can be asked of it in this session.
    """

    def __init__(self, sentence: str, kind: int = pb.ERROR_KIND_INPUT, is_final: bool = False) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.is_final = is_final


class PartyLostError(ConnectionError):
    """Another party cannot be reached, or has not answered in time."""
