"""A parcel between two processes: what one half of a crossing hands to the other half elsewhere, and the gradients back.

Inside one process `Boundary.receive` takes the ticket of `Boundary.send` itself. Between two processes the sender unloads its
ticket, and the receiver makes a ticket of its own from what has come. Each party's meter counts what it sends and what comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from splitlearn.boundary import crossing
from splitlearn.boundary.boundary import Boundary, Ticket
from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.codecs import Columns
from splitlearn.boundary.parcel import LayerOutputs, tensors_of
from splitlearn.boundary.routes import Direction

_CPU = torch.device("cpu")
# From the name of a part and of an output to the place of each layer's tensor in the freight; None where there is none.
OutputPlaces = Mapping[str, Mapping[str, Sequence[int | None]]]


@dataclass(frozen=True, eq=False)
class Freight:
    """The content of a ticket, as it goes from process to process.

    Attributes:
        encoded: each tensor, encoded; the first are the smashed data.
        dtypes: the dtype to decode each tensor to.
        shapes: the shape of each tensor.
        needs_gradient: for each tensor whether the sender needs its gradient.
        context: mask, positions and other tensors, by argument name; empty if the receiver has them already.
        layer_outputs: where the recorded outputs of the parts below stand among the tensors.
        rows_B: ids of the examples in the rows, shape (B); None if they have none.
    """

    encoded: Sequence[Columns]
    dtypes: Sequence[torch.dtype]
    shapes: Sequence[torch.Size]
    needs_gradient: Sequence[bool]
    context: Mapping[str, Any] = field(default_factory=dict)
    layer_outputs: OutputPlaces = field(default_factory=dict)
    rows_B: torch.Tensor | None = None


def unload(ticket: Ticket, boundary: Boundary) -> Freight:
    """Take out of a ticket what another process must be sent, once.

    Args:
        ticket: from `Boundary.send`.
        boundary: that boundary.

    Raises:
        ValueError: layers below have returned something that cannot be sent.
    """
    under_way, route = ticket.under_way, boundary.route
    encoded, under_way.encoded = under_way.encoded, []
    places: dict[str, dict[str, tuple[int | None, ...]]] = {}
    for part in route.layer_outputs_of:
        for name, values in ticket.layer_outputs.get(part, {}).items():
            places.setdefault(part, {})[name] = tuple(_place_of(value, ticket, f"{part}'s {name}") for value in values)
    return Freight(
        encoded,
        under_way.dtypes,
        under_way.shapes,
        under_way.needs_gradient,
        ticket.context if route.sends_context else {},
        places,
        ticket.rows_B,
    )


def load(
    boundary: Boundary,
    freight: Freight,
    kind: CallKind,
    wire: torch.Tensor,
    known: Mapping[str, Any] | None = None,
    below: Mapping[str, LayerOutputs] | None = None,
) -> Ticket:
    """Make a ticket for `Boundary.receive` of what has come from another process; its bytes are counted.

    Args:
        boundary: the boundary that it has passed.
        freight: from `unload` at the sender.
        kind: purpose of the call.
        wire: a scalar of the first tensor's dtype, which connects the receiver's graph to whatever sends its gradients back.
        known: mask, positions and others that the receiver has already, by argument name.
        below: recorded outputs that the receiver has already, by the part's name.
    """
    # Tensors that stand for those that have not been decoded yet, by their place.
    stand_ins = [torch.empty(0) for _ in freight.encoded]
    ways: list[Sequence[Direction]] = [boundary.route.hops for _ in freight.encoded]
    outputs: dict[str, LayerOutputs] = dict(below or {})
    for part, named in freight.layer_outputs.items():
        for values in named.values():
            for place in values:
                if place:
                    ways[place] = boundary.route.layer_outputs_of.get(part, ())
        outputs[part] = {
            name: tuple(None if place is None else stand_ins[place] for place in values) for name, values in named.items()
        }
    for columns, way in zip(freight.encoded, ways, strict=True):
        boundary.count(kind, "activation", way, _num_bytes(columns))
    for tensor in tensors_of(freight.context):
        boundary.count(kind, "activation", (Direction.UPLINK,), tensor.nbytes)
    under_way = crossing.Ticket(
        encoded=list(freight.encoded),
        dtypes=list(freight.dtypes),
        shapes=list(freight.shapes),
        needs_gradient=list(freight.needs_gradient),
        devices=[_CPU for _ in freight.encoded],
    )
    context = {**(known or {}), **freight.context}
    places = {id(stand_in): place for place, stand_in in enumerate(stand_ins)}
    return Ticket(kind, context, outputs, None, under_way, wire, places, ways, freight.rows_B)


def add_own_outputs(boundary: Boundary, ticket: Ticket) -> Ticket:
    """Put recorded outputs of parts that are here on a ticket that is relayed from one party to another.

    Args:
        boundary: the boundary that both pass.
        ticket: from `load`, with the outputs of the parts that are here as ``below``.

    Returns:
        A ticket of both; the same one if there are no such outputs.
    """
    own: list[torch.Tensor] = []
    ways: list[Sequence[Direction]] = []
    places = dict(ticket.places)
    for part, way in boundary.route.layer_outputs_of.items():
        for tensor in tensors_of(ticket.layer_outputs.get(part, {})):
            if tensor.is_floating_point() and id(tensor) not in places:
                places[id(tensor)] = len(ticket.ways) + len(own)
                own.append(tensor)
                ways.append(way)
    if not own:
        return ticket
    sent, wire = boundary.send_outputs(own, ways, ticket)
    relayed = ticket.under_way
    under_way = crossing.Ticket(
        [*relayed.encoded, *sent.encoded],
        [*relayed.dtypes, *sent.dtypes],
        [*relayed.shapes, *sent.shapes],
        [*relayed.needs_gradient, *sent.needs_gradient],
        [*relayed.devices, *sent.devices],
    )
    relayed.encoded, sent.encoded = [], []
    joined = crossing.join(under_way, (relayed, sent), (ticket.wire, wire))
    return replace(ticket, under_way=under_way, wire=joined, places=places, ways=[*ticket.ways, *ways])


def unload_gradients(ticket: Ticket) -> list[Columns | None]:
    """Take the gradients out of a ticket that the receiver's backward pass has put in; None for tensors without any."""
    gradients, ticket.under_way.gradients = ticket.under_way.gradients, []
    return gradients or [None for _ in ticket.under_way.dtypes]


def load_gradients(boundary: Boundary, ticket: Ticket, gradients: Sequence[Columns | None]) -> None:
    """Put gradients that have come from another process into the sender's ticket; their bytes are counted.

    Args:
        boundary: the boundary that they have passed.
        ticket: from `Boundary.send`.
        gradients: of each tensor, encoded; None where there is none.
    """
    for columns, way in zip(gradients, ticket.ways, strict=True):
        if columns is not None:
            boundary.count(ticket.kind, "gradient", [hop.back for hop in way], _num_bytes(columns))
    ticket.under_way.gradients = list(gradients)


def without_graph(ticket: Ticket) -> Ticket:
    """Return a ticket for gradients alone, which holds nothing of autograd's graph."""
    return replace(ticket, wire=ticket.wire.detach())


def _place_of(value: Any, ticket: Ticket, name: str) -> int | None:
    if value is None:
        return None
    if id(value) not in ticket.places:
        raise ValueError(f"{name} holds {type(value).__name__}, which cannot be sent to another party; only numbers can")
    return ticket.places[id(value)]


def _num_bytes(columns: Columns) -> int:
    return sum(column.nbytes for column in columns.values())
