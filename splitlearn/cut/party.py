"""One party of split learning: the parts that it holds, and their devices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from splitlearn.cut.devices import DeviceMapError, resolve_device_map
from splitlearn.cut.plan import PART_NAMES

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_PARTY_SETTINGS = ("parts", "devices", "address")


class PlacementError(ValueError):
    """A placement that is impossible; the message begins with the argument's name."""


@dataclass(frozen=True)
class Party:
    """One party of split learning.

    Attributes:
        name: for example ``"client"``.
        parts: the parts that it holds, in the order in which data pass them.
        devices: the device of each of its parts by name; empty for a party elsewhere, whose machine is not checked.
        address: where the party runs, as ``"host:port"``; None for a party of this process.
    """

    name: str
    parts: tuple[str, ...]
    devices: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether the party runs in this process."""
        return self.address is None

    def to_dict(self) -> dict[str, Any]:
        """Return the party as plain values, for JSON."""
        return {"parts": list(self.parts), "devices": dict(self.devices) or None, "address": self.address}


def parse_party(name: object, settings: object) -> tuple[Party, Any]:
    """Return a party without devices, and the devices that its settings ask for, unchecked.

    Args:
        name: the party's name.
        settings: its ``parts``, ``devices`` and ``address``.

    Raises:
        PlacementError: the name or a setting is malformed, or a setting is unknown.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PlacementError(f"parties has {name!r}; a party's name is a letter followed by letters, digits, - or _")
    where = f"parties.{name}"
    if not isinstance(settings, Mapping):
        raise PlacementError(f"{where} is {settings!r}; give its parts, such as {where}.parts=[bottom]")
    unknown = [key for key in settings if key not in _PARTY_SETTINGS]
    if unknown:
        raise PlacementError(f"{where} has {unknown[0]!r}; a party has {', '.join(_PARTY_SETTINGS)}")
    parts = settings.get("parts")
    if isinstance(parts, str) or not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise PlacementError(f"{where}.parts is {parts!r}; give a list such as [bottom, top]")
    address = settings.get("address")
    if address is not None and (not isinstance(address, str) or not re.fullmatch(r"\S+:[0-9]{1,5}", address)):
        raise PlacementError(f"{where}.address is {address!r}; give host:port, or null for a party of this process")
    ordered = sorted(parts, key=lambda part: PART_NAMES.index(part) if part in PART_NAMES else len(PART_NAMES))
    return Party(name, tuple(ordered), address=address), settings.get("devices")


def place_party(party: Party, devices: Any, general: Mapping[str, str], num_gpus: int) -> Party:
    """Return a party with a device for each of its parts.

    Args:
        party: a party of this process.
        devices: the devices that its settings ask for: one, or one for each part, or None.
        general: the device of each part for which ``devices`` names none.
        num_gpus: how many GPUs this machine has.

    Raises:
        PlacementError: a device is malformed or absent, or one is named for a part that the party does not hold.
    """
    where = f"parties.{party.name}.devices"
    if devices is not None and not isinstance(devices, (str, Mapping)):
        raise PlacementError(f"{where} is {devices!r}; give one device, or a device for each of its parts, or null")
    foreign = [part for part in devices if part not in party.parts] if isinstance(devices, Mapping) else []
    if foreign:
        raise PlacementError(f"{where} names {foreign[0]!r}, but {party.name!r} holds {', '.join(party.parts)}")
    # The party's own devices override the general ones, which are checked already.
    own = dict.fromkeys(party.parts, devices) if isinstance(devices, str) else dict(devices or {})
    resolved = {part: general[part] for part in party.parts}
    for part, device in own.items():
        try:
            resolved |= resolve_device_map(device, num_gpus=num_gpus, parts=(part,))
        except DeviceMapError as error:
            place = where if isinstance(devices, str) else f"{where}.{part}"
            raise PlacementError(f"{place}{str(error).removeprefix('device')}") from error
    return Party(party.name, party.parts, resolved)
