"""The placement that a configuration asks for, resolved once a run and handed on."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig

from splitlearn.app.configuration import plain
from splitlearn.cut import CUTS, Placement, PlacementError, parse_party

# Settings of a placement that say how another party is reached, not who holds what.
_OF_CONNECTION = ("server", "certificates", "patience", "microbatches")


def resolve_placement(cfg: DictConfig, *, elsewhere: bool = False) -> Placement:
    """Return who holds which part, with the devices of this machine.

    Args:
        cfg: a configuration with ``device``, ``device_map`` and, if several parties are to share the parts, ``placement``;
            runs of older releases have none.
        elsewhere: whether parts stay with the server that ``placement.server`` names; otherwise this process holds them all.

    Raises:
        PlacementError: the parties do not hold bottom, trunk and top once each, or one has an address.
        DeviceMapError: a device is malformed or not there.
    """
    device_map, num_gpus = plain(cfg.device_map), torch.cuda.device_count()
    settings = plain(cfg.get("placement"))
    if settings is None:
        return Placement.one_party(cfg.device, device_map, num_gpus=num_gpus)
    server = settings.get("server") if elsewhere else None
    settings = {name: value for name, value in settings.items() if name not in _OF_CONNECTION}
    try:
        placement = Placement.resolve(**settings, device=cfg.device, device_map=device_map, num_gpus=num_gpus)
    except PlacementError as error:
        raise PlacementError(f"placement.{error}") from error
    for name, address in placement.addresses():
        raise PlacementError(
            f"placement.parties.{name}.address is {address!r}, but the address of another party is placement.server; leave "
            "it null"
        )
    return placement if server is None else _with_server(placement, server)


def _with_server(placement: Placement, address: str) -> Placement:
    """Return a placement whose party beside the data's owner is at an address.

    Raises:
        PlacementError: that party holds another part than the trunk.
    """
    servers = [party for party in placement.parties if party.name != placement.data]
    if [party.parts for party in servers] != [("trunk",)]:
        held = " and ".join(f"the {part}" for party in servers for part in party.parts) or "nothing"
        raise PlacementError(
            f"placement.server is {address!r}, but a server can hold the trunk alone, and here servers hold {held}; take "
            "placement=u_shaped"
        )
    settings = {"parts": list(servers[0].parts), "address": address}
    try:
        server, _ = parse_party(servers[0].name, settings)
    except PlacementError as error:
        raise PlacementError(f"placement.server is {address!r}; give HOST:PORT, such as trunk.example.org:7443") from error
    here = tuple(party for party in placement.parties if party.name == placement.data)
    return Placement((*here, server), placement.data, placement.labels)


def describe_placement(placement: Placement) -> dict[str, Any]:
    """Return, for a run's summary, who holds what and which data each cut is crossed by; none where it lies in one party."""
    return placement.to_dict() | {"crosses": {f"cut_{cut}": list(placement.what_crosses(cut)) for cut in CUTS}}
