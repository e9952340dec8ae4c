"""Greeting the holder of a part, and what stands for the part afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import torch

from splitlearn.boundary import sent_by
from splitlearn.loading import OpenedModel
from splitlearn.parties.connection import Connection, ask
from splitlearn.parties.errors import PartyError
from splitlearn.parties.plan import difference, make_plan, with_order
from splitlearn.parties.protocol import PROTOCOL_VERSION
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.remote_owner import RemoteOwner
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
        connection: as for `join_parts`, like the others.
        opened: the model, cut.
        settings: how all parts are trained.
        generators: those of the run.
        part: the part's name.
        run_id: of the run.

    Raises:
        PartyError: model, cut, dtype, training or codecs of the two parties differ; the sentence says how.
        PartyLostError: the holder cannot be reached.
    """
    return join_parts(connection, opened, settings, generators, [part], run_id)[part]


def join_parts(
    connection: Connection,
    opened: OpenedModel,
    settings: TrainingSettings,
    generators: NamedGenerators,
    parts: Sequence[str],
    run_id: str = "",
    order: str | None = None,
    measures: bool = False,
) -> dict[str, RemotePart]:
    """Greet the holder of some parts, and return what stands for each of them here, by name.

    Args:
        connection: a conversation with the holder in which nothing has been said.
        opened: the model, cut; it need not be opened for the parts.
        settings: how all parts are trained.
        generators: those of the run. The holder is told the seeds of what it draws from, from which no other follows.
        parts: the names of all parts that it holds, in the order in which data pass them.
        run_id: of the run, for the holder's log and checkpoints.
        order: in which several clients are to train the parts; None leaves it to the holder.
        measures: nothing is trained; a holder whose parts several clients train refuses that.

    Raises:
        PartyError: model, cut, dtype, training or codecs of the two parties differ; the sentence says how.
        PartyLostError: the holder cannot be reached.
    """
    dtypes = {part: _dtype(opened, settings, part) for part in parts}
    plan = with_order(make_plan(opened, settings, dtypes), order)
    hello = pb.Hello(
        protocol_version=PROTOCOL_VERSION,
        plan=plan,
        run_id=run_id,
        versions={name: version(name) for name in _VERSIONS},
        seeds={name: generators.seed_of(name) for name in (*parts, *sent_by(parts))},
        measures=measures,
    )
    welcome = ask(connection, pb.Head(hello=hello)).head.welcome
    problem = difference(plan, welcome.plan, connection.party, "here")
    if problem is not None:
        raise PartyError(problem, pb.ERROR_KIND_PLAN)
    owner, digests = RemoteOwner(connection, welcome, parts, settings.codecs), welcome.plan.model_digest.split(",")
    specs = [spec for spec in opened.plan.parts if spec.name in parts]
    # One session keeps the caches of all parts that the holder has; the first part with layers begins it.
    leader = next((spec for spec in specs if spec.start < spec.end), specs[0])
    return {
        spec.name: RemotePart(
            connection, welcome, spec, opened.loader_in(dtypes[spec.name]).blueprint, owner, digest or None, spec is leader
        )
        for spec, digest in zip(specs, [*digests, *[""] * len(specs)], strict=False)
    }


def _dtype(opened: OpenedModel, settings: TrainingSettings, part: str) -> torch.dtype:
    is_wide = opened.request.dtype is None and settings.trained[part].trains_weights
    return torch.float32 if is_wide else opened.dtype
