"""A part whose parameters are out of reach: a server in this process is sent the bytes that a network would carry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from splitlearn.loading import ModelRequest
from splitlearn.model import LocalSession
from splitlearn.parties.in_process import InProcessConnection
from splitlearn.parties.joining import join
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


def generations(part: RemotePart) -> Mapping[int, LocalSession]:
    """Return the generations that are under way at the server of a part of `stand_in`."""
    connection = part.connection
    assert isinstance(connection, InProcessConnection) and connection.conversation.session is not None
    return connection.conversation.session.generations
