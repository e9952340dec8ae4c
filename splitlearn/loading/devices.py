"""The devices that the parts to be loaded go to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from splitlearn.cut import Placement, refuse_both, resolve_device_map


def devices_of(
    names: Sequence[str], placement: Placement | None, device: str, device_map: str | Mapping[str, str] | None
) -> dict[str, str]:
    """Return the device of each part that is to be loaded; those of other parts need not be on this machine.

    Args:
        names: the parts.
        placement: who holds which part; None takes ``device`` and ``device_map``.
        device: device of parts that ``device_map`` does not name.
        device_map: None, one device, a mapping from part to device, or ``"auto"``.

    Raises:
        DeviceMapError: a device is malformed or absent, or a part's name is unknown.
        ValueError: a part is held elsewhere, or a placement is given beside devices.
    """
    refuse_both(placement, device, device_map)
    if placement is None:
        return resolve_device_map(device, device_map, num_gpus=torch.cuda.device_count(), parts=names)
    elsewhere = [name for name in names if name not in placement.devices]
    if elsewhere:
        raise ValueError(f"{elsewhere[0]} is to be loaded here, but {placement.holder(elsewhere[0])!r} holds it elsewhere")
    return {name: placement.devices[name] for name in names}
