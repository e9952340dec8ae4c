"""Parsing and checking ``device`` and ``device_map``, before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from splitlearn.cut.plan import PART_NAMES

# More digits than a device has would be slow to read, and beyond 4300 Python refuses to.
_DEVICE = re.compile(r"(cpu|cuda|meta)(?::([0-9]{1,4}))?")


class DeviceMapError(ValueError):
    """A device or device map that cannot be honoured on this machine."""


def _check_device(device: object, where: str, num_gpus: int) -> str:
    match = _DEVICE.fullmatch(device) if isinstance(device, str) else None
    if match is None or match.group(1) == "meta":
        raise DeviceMapError(f"{where} is {device!r}; use 'cpu', 'cuda' or 'cuda:N'")
    if match.group(1) == "cpu":
        return "cpu"
    index = int(match.group(2) or 0)
    if index >= num_gpus:
        present = f"this machine has {num_gpus} GPU{'s' * (num_gpus != 1)}" if num_gpus else "this machine has no GPU"
        raise DeviceMapError(f"{where} is {device!r}, but {present}; choose a device that is there, or 'cpu'")
    return f"cuda:{index}"


def _automatic(num_gpus: int) -> dict[str, str]:
    placements = {
        0: ("cpu", "cpu", "cpu"),
        1: ("cpu", "cuda:0", "cuda:0"),
        2: ("cpu", "cuda:0", "cuda:1"),
        3: ("cuda:0", "cuda:1", "cuda:2"),
    }
    return dict(zip(PART_NAMES, placements[min(num_gpus, 3)], strict=True))


def resolve_device_map(
    device: str = "cpu",
    device_map: str | Mapping[str, str] | None = None,
    *,
    num_gpus: int,
    parts: Sequence[str] = PART_NAMES,
) -> dict[str, str]:
    """Return the device of bottom, trunk and top, or of those of them that are on this machine.

    Args:
        device: device of parts that ``device_map`` does not name.
        device_map: None (everything on ``device``), one device for all parts, ``"auto"``, or a mapping from part name to
            device. ``"auto"`` places all parts on the CPU without a GPU; with one GPU bottom on the CPU, trunk and top on the
            GPU; with two bottom on the CPU and one GPU each for trunk and top; with three or more one GPU for each part.
        num_gpus: how many GPUs this machine has.
        parts: the parts that are on this machine. Devices of others need not exist.

    Returns:
        One device string (``"cpu"`` or ``"cuda:N"``) for each of ``parts``.

    Raises:
        DeviceMapError: a part's name is unknown, or a device is malformed or absent.
    """
    if device_map == "auto":
        # `auto` ignores `device`, but still reject an invalid one.
        _check_device(device, "device", num_gpus)
        automatic = _automatic(num_gpus)
        return {part: automatic[part] for part in parts}
    if device_map is None or isinstance(device_map, str):
        where = "device" if device_map is None else "device_map"
        chosen = _check_device(device if device_map is None else device_map, where, num_gpus)
        return dict.fromkeys(parts, chosen)
    if not isinstance(device_map, Mapping):
        raise DeviceMapError(f"device_map is {device_map!r}; use 'auto', one device, or a mapping such as {{trunk: 'cuda:0'}}")
    unknown = [key for key in device_map if key not in PART_NAMES]
    if unknown:
        raise DeviceMapError(f"device_map names {unknown[0]!r}; the parts are {', '.join(PART_NAMES)}")
    return {
        part: _check_device(device_map[part], f"device_map[{part!r}]", num_gpus)
        if part in device_map
        else _check_device(device, "device", num_gpus)
        for part in parts
    }
