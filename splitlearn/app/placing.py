"""The placement that a configuration asks for, resolved once a run and handed on."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig

from splitlearn.app.configuration import plain
from splitlearn.cut import CUTS, Placement, PlacementError


def resolve_placement(cfg: DictConfig) -> Placement:
    """Return who holds which part, with the devices of this machine.

    Args:
        cfg: a configuration with ``device``, ``device_map`` and, if several parties are to share the parts, ``placement``;
            runs of older releases have none.

    Raises:
        PlacementError: the parties do not hold bottom, trunk and top once each, or one has an address.
        DeviceMapError: a device is malformed or not there.
    """
    device_map, num_gpus = plain(cfg.device_map), torch.cuda.device_count()
    settings = plain(cfg.get("placement"))
    if settings is None:
        return Placement.one_party(cfg.device, device_map, num_gpus=num_gpus)
    try:
        placement = Placement.resolve(**settings, device=cfg.device, device_map=device_map, num_gpus=num_gpus)
    except PlacementError as error:
        raise PlacementError(f"placement.{error}") from error
    for name, address in placement.addresses():
        raise PlacementError(
            f"placement.parties.{name}.address is {address!r}, but parties elsewhere are not supported yet: all of them run in "
            "this process; leave it null"
        )
    return placement


def describe_placement(placement: Placement) -> dict[str, Any]:
    """Return, for a run's summary, who holds what and which data each cut is crossed by; none where it lies in one party."""
    return placement.to_dict() | {"crosses": {f"cut_{cut}": list(placement.what_crosses(cut)) for cut in CUTS}}
