"""Which way data pass each cut, from who holds which part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from splitlearn.cut import CUTS, PART_NAMES, Placement


class Direction(StrEnum):
    """A transfer seen from the party that holds the data: up to a server, or down from one."""

    UPLINK = "uplink"
    DOWNLINK = "downlink"

    @property
    def back(self) -> Direction:
        """The other direction."""
        return Direction.DOWNLINK if self is Direction.UPLINK else Direction.UPLINK


@dataclass(frozen=True)
class Route:
    """How data pass one cut.

    Attributes:
        cut: 1 between bottom and trunk, 2 between trunk and top.
        hops: the transfers of an activation in order; none if both sides are one party. Between two servers there are two,
            because servers do not call each other: the data's owner relays. Gradients take the opposite way.
        sends_context: whether mask and positions are sent, because the receiver does not have them yet.
        sends_labels: whether labels pass here on their way to the holder of the top.
        layer_outputs_of: the parts whose recorded outputs pass here on their way to the holder of the top, each with its
            transfers.
    """

    cut: int
    hops: tuple[Direction, ...] = ()
    sends_context: bool = False
    sends_labels: bool = False
    layer_outputs_of: Mapping[str, tuple[Direction, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``cut_1`` or ``cut_2``, as in figures and logs."""
        return f"cut_{self.cut}"

    @property
    def is_crossed(self) -> bool:
        """Whether the cut lies between two parties."""
        return bool(self.hops)


def find_routes(placement: Placement) -> tuple[Route, Route]:
    """Return the routes over cut 1 and cut 2.

    Args:
        placement: who holds which part, text and labels.
    """
    owner, holder_of_top = placement.data, placement.holder(PART_NAMES[-1])
    # Recorded outputs for the holder of the top travel with the first parcel that is sent to it.
    to_top = [cut for cut in CUTS if placement.crosses(cut) and placement.holder(PART_NAMES[cut]) == holder_of_top][:1]
    routes = []
    for cut in CUTS:
        below, above = (placement.holder(name) for name in PART_NAMES[cut - 1 : cut + 1])
        ways = {name: _hops(placement.holder(name), above, owner) for name in PART_NAMES[:cut]} if cut in to_top else {}
        routes.append(
            Route(
                cut,
                _hops(below, above, owner),
                sends_context=placement.crosses(cut) and placement.inputs_cross(cut),
                sends_labels=placement.labels_cross() == cut,
                layer_outputs_of={name: way for name, way in ways.items() if way},
            )
        )
    return routes[0], routes[1]


def _hops(below: str, above: str, owner: str) -> tuple[Direction, ...]:
    if below == above:
        return ()
    if below == owner:
        return (Direction.UPLINK,)
    if above == owner:
        return (Direction.DOWNLINK,)
    return Direction.DOWNLINK, Direction.UPLINK


# The data's owner holds bottom and top, a server the trunk.
U_SHAPED = find_routes(Placement.u_shaped(num_gpus=0))
