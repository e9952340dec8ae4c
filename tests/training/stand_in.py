"""A part whose parameters are out of reach: a server in this process is sent the bytes that a network would carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from splitlearn.cut import PART_NAMES
from splitlearn.loading import ModelRequest
from splitlearn.model import LocalSession
from splitlearn.parties.in_process import InProcessConnection
from splitlearn.parties.joining import join, join_parts
from splitlearn.parties.part_server import PartServer
from splitlearn.parties.remote_part import RemotePart
from splitlearn.parties.served_part import ServedPart
from splitlearn.randomness import NamedGenerators
from splitlearn.training import TrainingSettings


def stand_in(
    checkpoint: Path, cut: tuple[int, int], settings: TrainingSettings, generators: NamedGenerators
) -> tuple[RemotePart, PartServer]:
    """Return what the data's owner has of a trunk, and the server that holds it."""
    request = ModelRequest(str(checkpoint), *cut)
    server = PartServer(ServedPart(request, "trunk", settings))
    part = join(InProcessConnection(server), request.open(["bottom", "top"]), settings, generators)
    return part, server


def stand_ins(
    checkpoint: Path,
    cut: tuple[int, int],
    settings: TrainingSettings,
    generators: NamedGenerators,
    servers: Sequence[Sequence[str]],
) -> dict[str, RemotePart]:
    """Return what the data's owner has of all parts that servers hold; each server has parts of its own."""
    request = ModelRequest(str(checkpoint), *cut)
    parts: dict[str, RemotePart] = {}
    here = [name for name in PART_NAMES if not any(name in held for held in servers)]
    for held in servers:
        connection = InProcessConnection(PartServer(ServedPart(request, held, settings)))
        parts |= join_parts(connection, request.open(here), settings, generators, held)
    return parts


def generations(part: RemotePart) -> Mapping[int, LocalSession]:
    """Return the generations that are under way at the server of a part of `stand_in`."""
    connection = part.connection
    assert isinstance(connection, InProcessConnection) and connection.conversation.session is not None
    return connection.conversation.session.generations
