from __future__ import annotations

from typing import Any

import pytest

from splitlearn.cut import DeviceMapError, Party, Placement, PlacementError

U_SHAPED = {"client": {"parts": ["bottom", "top"]}, "server": {"parts": ["trunk"]}}
VANILLA = {"client": {"parts": ["bottom"]}, "server": {"parts": ["trunk", "top"]}}
SERVER = {"parts": ["trunk"]}
LINEAR = {"client": {"parts": ["bottom"]}, "middle": {"parts": ["trunk"]}, "last": {"parts": ["top"]}}


def resolve(parties: dict[str, Any], data: str = "client", labels: str = "client", num_gpus: int = 0, **more: Any) -> Placement:
    return Placement.resolve(parties, data, labels, num_gpus=num_gpus, **more)


def test_one_party_holds_everything_where_the_device_map_says() -> None:
    placement = Placement.one_party("cpu", {"trunk": "cuda:1"}, num_gpus=2)
    assert placement.devices == {"bottom": "cpu", "trunk": "cuda:1", "top": "cpu"}
    assert placement.parts_here() == ("bottom", "trunk", "top")
    assert [placement.crosses(cut) for cut in (1, 2)] == [False, False]
    assert placement.labels_cross() is None
    assert placement.what_crosses(1) == placement.what_crosses(2) == ()


def test_u_shaped_keeps_labels_with_the_client() -> None:
    placement = resolve(U_SHAPED)
    assert [placement.crosses(cut) for cut in (1, 2)] == [True, True]
    assert placement.labels_cross() is None
    assert placement.what_crosses(1) == ("smashed data", "mask", "positions")
    # The client has seen mask and positions.
    assert placement.what_crosses(2) == ("smashed data",)
    assert placement.holder("top") == placement.holder("bottom") == "client"
    assert placement.parts_here("client") == ("bottom", "top")


def test_vanilla_sends_labels_at_cut_1() -> None:
    placement = resolve(VANILLA, labels="server")
    assert [placement.crosses(cut) for cut in (1, 2)] == [True, False]
    assert placement.labels_cross() == 1
    assert placement.what_crosses(1) == ("smashed data", "mask", "positions", "labels")
    assert placement.what_crosses(2) == ()
    assert [placement.inputs_cross(cut) for cut in (1, 2)] == [True, False]


def test_linear_sends_labels_to_the_holder_of_the_top() -> None:
    placement = resolve(LINEAR, labels="last")
    assert [placement.crosses(cut) for cut in (1, 2)] == [True, True]
    assert placement.labels_cross() == 2
    assert placement.what_crosses(1) == ("smashed data", "mask", "positions")
    assert placement.what_crosses(2) == ("smashed data", "mask", "positions", "labels")


def test_parts_are_in_the_order_in_which_data_pass_them() -> None:
    placement = resolve({"client": {"parts": ["top", "bottom"]}, "server": {"parts": ["trunk"]}})
    assert placement.party("client").parts == ("bottom", "top")


def test_devices_of_a_party_come_before_the_device_map() -> None:
    parties = {
        "client": {"parts": ["bottom", "top"], "devices": {"top": "cuda"}},
        "server": SERVER | {"devices": "cuda:1"},
    }
    placement = resolve(parties, num_gpus=2, device_map="cpu")
    assert placement.devices == {"bottom": "cpu", "trunk": "cuda:1", "top": "cuda:0"}


def test_devices_of_a_party_elsewhere_are_not_looked_for() -> None:
    server = SERVER | {"devices": "cuda:7", "address": "example.org:9000"}
    placement = resolve({"client": {"parts": ["bottom", "top"]}, "server": server}, device_map={"trunk": "cuda:7"})
    assert placement.devices == {"bottom": "cpu", "top": "cpu"}
    assert placement.parts_here() == ("bottom", "top")
    assert placement.parts_here("server") == ()
    assert list(placement.addresses()) == [("server", "example.org:9000")]
    assert placement.crosses(1)


def test_plain_values_make_the_same_placement_again() -> None:
    placement = resolve(VANILLA, labels="server")
    assert Placement.resolve(**placement.to_dict(), num_gpus=0) == placement


@pytest.mark.parametrize(
    ("parties", "message"),
    [
        ({}, r"parties is \{\}; give at least one party"),
        ({"1st": {"parts": ["bottom"]}}, "parties has '1st'"),
        ({"client": None}, r"parties.client is None; give its parts"),
        (
            {"client": {"parts": ["bottom"], "device": "cpu"}},
            "parties.client has 'device'; a party has parts, devices, address",
        ),
        ({"client": {"parts": "bottom"}}, r"parties.client.parts is 'bottom'; give a list"),
        ({"client": {"parts": ["bottom", "middle"]}}, "parties.client.parts names 'middle'; the parts are bottom, trunk, top"),
        ({"client": {"parts": ["bottom", "bottom"]}}, "parties.client.parts names 'bottom', which 'client' holds already"),
        ({**U_SHAPED, "other": {"parts": ["trunk"]}}, "parties.other.parts names 'trunk', which 'server' holds already"),
        ({**U_SHAPED, "other": {"parts": []}}, "parties.other.parts is empty"),
        ({"client": {"parts": ["bottom", "top"]}}, r"parties leave 'trunk' to nobody; .* \(there are: client\)"),
        (
            {**U_SHAPED, "server": SERVER | {"address": "nowhere"}},
            "parties.server.address is 'nowhere'; give host",
        ),
        (
            {**U_SHAPED, "server": SERVER | {"devices": "cuda:3"}},
            "parties.server.devices is 'cuda:3', but this machine",
        ),
        ({**U_SHAPED, "server": SERVER | {"devices": {"trunk": 3}}}, "parties.server.devices.trunk is 3; use"),
        (
            {**U_SHAPED, "server": SERVER | {"devices": {"top": "cpu"}}},
            "parties.server.devices names 'top', but 'server'",
        ),
        ({**U_SHAPED, "server": SERVER | {"devices": 3}}, "parties.server.devices is 3; give one device"),
    ],
)
def test_parties_that_cannot_hold_the_parts_are_refused(parties: dict[str, Any], message: str) -> None:
    with pytest.raises(PlacementError, match=message):
        resolve(parties)


@pytest.mark.parametrize(
    ("parties", "data", "labels", "message"),
    [
        (U_SHAPED, "klient", "client", "data is 'klient', which is no party; the parties are client, server"),
        (U_SHAPED, "server", "client", "data is 'server', but 'client' holds the bottom, which takes the tokens"),
        # Labels never leave a party unless the placement says so.
        (VANILLA, "client", "client", "labels is 'client', but 'server' holds the top, which computes the loss"),
        (U_SHAPED, "client", "server", "labels is 'server', but 'client' holds the top"),
    ],
)
def test_data_and_labels_are_with_the_parts_that_take_them(
    parties: dict[str, Any], data: str, labels: str, message: str
) -> None:
    with pytest.raises(PlacementError, match=message):
        resolve(parties, data, labels)


def test_a_device_map_that_cannot_be_honoured_is_named_by_its_own_name() -> None:
    with pytest.raises(DeviceMapError, match=r"device_map\['trunk'\] is 'cuda:1'"):
        resolve(U_SHAPED, device_map={"trunk": "cuda:1"})


def test_there_are_two_cuts() -> None:
    with pytest.raises(ValueError, match="cut is 3; a model has cut 1"):
        resolve(U_SHAPED).crosses(3)


def test_a_placement_can_be_made_of_parties() -> None:
    placement = Placement((Party("alone", ("bottom", "trunk", "top")),), data="alone", labels="alone")
    assert placement.devices == {}
