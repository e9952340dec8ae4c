"""Who sends what over the cuts, from who holds which parts."""

from __future__ import annotations

from collections.abc import Collection

from splitlearn.boundary.meter import PAYLOADS
from splitlearn.cut import CUTS, PART_NAMES


def sent_by(parts: Collection[str]) -> frozenset[str]:
    """Return what the holder of some parts sends to others, such as ``cut_1/gradient``.

    Args:
        parts: the names of the parts.
    """
    return frozenset(f"cut_{cut}/{PAYLOADS[end]}" for cut, end in _ends(parts))


def received_by(parts: Collection[str]) -> frozenset[str]:
    """Return what the holder of some parts receives from others, such as ``cut_1/activation``.

    Args:
        parts: the names of the parts.
    """
    return frozenset(f"cut_{cut}/{PAYLOADS[1 - end]}" for cut, end in _ends(parts))


def _ends(parts: Collection[str]) -> list[tuple[int, int]]:
    """Return the cuts that leave these parts: 0 where they are below the cut, and send smashed data; 1 where above."""
    sides = {cut: [part in parts for part in PART_NAMES[cut - 1 : cut + 1]] for cut in CUTS}
    return [(cut, held.index(True)) for cut, held in sides.items() if held[0] != held[1]]
