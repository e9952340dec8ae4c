"""The placement that a configuration asks for, resolved once a run and handed on."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig

from splitlearn.app.configuration import plain
from splitlearn.app.simulating import SIMULATION_SETTINGS
from splitlearn.cut import CUTS, Placement, PlacementError, parse_party

# Settings of a placement that say how another party is reached, not who holds what.
_OF_CONNECTION = ("server", "certificates", "patience", "microbatches", "rounds", *SIMULATION_SETTINGS)


def resolve_placement(cfg: DictConfig, *, elsewhere: bool = False) -> Placement:
    """Return who holds which part, with the devices of this machine.

    Args:
        cfg: a configuration with ``device``, ``device_map`` and, if several parties are to share the parts, ``placement``;
            runs of older releases have none.
        elsewhere: whether parts stay with the servers whose addresses it has; otherwise this process holds them all.

    Raises:
        PlacementError: the parties do not hold bottom, trunk and top once each, or an address is malformed, of the party of
            this process, or missing.
        DeviceMapError: a device is malformed or not there.
    """
    device_map, num_gpus = plain(cfg.device_map), torch.cuda.device_count()
    settings = plain(cfg.get("placement"))
    if settings is None:
        return Placement.one_party(cfg.device, device_map, num_gpus=num_gpus)
    server = settings.get("server")
    settings = {name: value for name, value in settings.items() if name not in _OF_CONNECTION}
    if not elsewhere:
        settings["parties"] = {name: _without_address(party) for name, party in settings["parties"].items()}
    try:
        placement = Placement.resolve(**settings, device=cfg.device, device_map=device_map, num_gpus=num_gpus)
    except PlacementError as error:
        raise PlacementError(f"placement.{error}") from error
    if not elsewhere:
        return placement
    return _checked_addresses(placement if server is None else _with_server(placement, server))


def _without_address(party: Any) -> Any:
    return {**party, "address": None} if isinstance(party, dict) else party


def _with_server(placement: Placement, address: str) -> Placement:
    """Return a placement whose one party beside the data's owner is at an address.

    Raises:
        PlacementError: there is no such party, or there are several.
    """
    servers = [party for party in placement.parties if party.name != placement.data]
    if not servers:
        raise PlacementError(
            f"placement.server is {address!r}, but {placement.data!r} holds all parts; take placement=u_shaped or vanilla"
        )
    if len(servers) > 1:
        places = " and ".join(f"placement.parties.{party.name}.address" for party in servers)
        raise PlacementError(f"placement.server is {address!r}, but there are {len(servers)} servers; set {places} instead")
    (server,) = servers
    if server.address is not None:
        raise PlacementError(
            f"placement.server is {address!r} and placement.parties.{server.name}.address {server.address!r}; set one of them"
        )
    try:
        there, _ = parse_party(server.name, {"parts": list(server.parts), "address": address})
    except PlacementError as error:
        raise PlacementError(f"placement.server is {address!r}; give HOST:PORT, such as trunk.example.org:7443") from error
    here = tuple(party for party in placement.parties if party.name == placement.data)
    return Placement((*here, there), placement.data, placement.labels)


def _checked_addresses(placement: Placement) -> Placement:
    """Refuse addresses of this process's own party, and of some servers alone."""
    addresses = dict(placement.addresses())
    own = placement.data
    if own in addresses:
        raise PlacementError(
            f"placement.parties.{own}.address is {addresses[own]!r}, but {own!r} has the data and runs in this process; leave "
            "it null"
        )
    here = [party.name for party in placement.parties if party.is_here and party.name != own]
    if addresses and here:
        raise PlacementError(
            f"placement.parties.{here[0]}.address is null, but {next(iter(addresses))!r} is at an address; give all servers "
            "addresses, or none"
        )
    return placement


def describe_placement(placement: Placement) -> dict[str, Any]:
    """Return, for a run's summary, who holds what and which data each cut is crossed by; none where it lies in one party."""
    return placement.to_dict() | {"crosses": {f"cut_{cut}": list(placement.what_crosses(cut)) for cut in CUTS}}
