"""Which way data pass each cut."""

from __future__ import annotations

from splitlearn.boundary import U_SHAPED, Direction, Route, find_routes
from splitlearn.cut import PART_NAMES, Party, Placement

UP, DOWN = Direction.UPLINK, Direction.DOWNLINK


def routes_of(*parties: tuple[str, ...]) -> tuple[Route, Route]:
    named = tuple(Party(f"party{number}", parts) for number, parts in enumerate(parties))
    holders = {part: party.name for party in named for part in party.parts}
    return find_routes(Placement(named, data=holders["bottom"], labels=holders["top"]))


def test_u_shaped_sends_up_to_the_trunk_and_back_down() -> None:
    assert routes_of(("bottom", "top"), ("trunk",)) == U_SHAPED
    below, above = U_SHAPED
    assert below == Route(1, (UP,), sends_context=True)
    # The mask is known there; what the trunk's layers returned goes to the holder of the top.
    assert above == Route(2, (DOWN,), layer_outputs_of={"trunk": (DOWN,)})


def test_vanilla_sends_everything_up_at_cut_1() -> None:
    below, above = routes_of(("bottom",), ("trunk", "top"))
    assert below == Route(1, (UP,), sends_context=True, sends_labels=True, layer_outputs_of={"bottom": (UP,)})
    assert above == Route(2) and not above.is_crossed


def test_between_two_servers_the_owner_of_the_data_relays() -> None:
    below, above = routes_of(*((name,) for name in PART_NAMES))
    assert below == Route(1, (UP,), sends_context=True)
    outputs = {"bottom": (UP,), "trunk": (DOWN, UP)}
    assert above == Route(2, (DOWN, UP), sends_context=True, sends_labels=True, layer_outputs_of=outputs)


def test_nothing_crosses_inside_one_party() -> None:
    assert routes_of(PART_NAMES) == (Route(1), Route(2))
