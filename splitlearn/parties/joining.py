"""Greeting the holder of a part, and what stands for the part afterwards."""

from __future__ import annotations

from importlib.metadata import version

import torch

from splitlearn.boundary import CUT_NAMES
from splitlearn.cut import PART_NAMES
from splitlearn.loading import OpenedModel
from splitlearn.parties.connection import Connection, ask
from splitlearn.parties.errors import PartyError
from splitlearn.parties.plan import difference, make_plan
from splitlearn.parties.protocol import PROTOCOL_VERSION
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.remote_part import RemotePart
from splitlearn.randomness import NamedGenerators
from splitlearn.training import TrainingSettings

_VERSIONS = ("splitlearn", "torch", "transformers")


def join(
    connection: Connection,
    opened: OpenedModel,
    settings: TrainingSettings,
    generators: NamedGenerators,
    part: str = "trunk",
    run_id: str = "",
) -> RemotePart:
    """Greet the holder of a part, and return what stands for the part here.

    Args:
        connection: a conversation with the holder in which nothing has been said.
        opened: the model, cut; it need not be opened for the part.
        settings: how all parts are trained.
        generators: those of the run. The holder is told the seeds of what it draws from, from which no other follows.
        part: the part's name.
        run_id: of the run, for the holder's log and checkpoints.

    Raises:
        PartyError: model, cut, dtype, training or codecs of the two parties differ; the sentence says how.
        PartyLostError: the holder cannot be reached.
    """
    place = PART_NAMES.index(part)
    is_wide = opened.request.dtype is None and settings.trained[part].trains_weights
    dtype = torch.float32 if is_wide else opened.dtype
    plan = make_plan(opened, settings, part, dtype)
    drawn = (part, f"{CUT_NAMES[place - 1]}/gradient", *(f"{name}/activation" for name in CUT_NAMES[place : place + 1]))
    hello = pb.Hello(
        protocol_version=PROTOCOL_VERSION,
        plan=plan,
        run_id=run_id,
        versions={name: version(name) for name in _VERSIONS},
        seeds={name: generators.seed_of(name) for name in drawn},
    )
    welcome = ask(connection, pb.Head(hello=hello)).head.welcome
    problem = difference(plan, welcome.plan, connection.party, "here")
    if problem is not None:
        raise PartyError(problem, pb.ERROR_KIND_PLAN)
    spec = next(spec for spec in opened.plan.parts if spec.name == part)
    return RemotePart(connection, welcome, spec, opened.loader_in(dtype).blueprint)
