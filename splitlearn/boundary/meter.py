"""How many bytes crossed each cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.routes import Direction

CUT_NAMES = ("cut_1", "cut_2")
PAYLOADS = ("activation", "gradient")
COUNTS = tuple(f"{payload}_{direction}_bytes" for payload in PAYLOADS for direction in Direction)


class TrafficMeter:
    """Counts the bytes of the buffers that cross the cuts, by what the call was for.

    Masks, positions, labels and per-layer outputs that are sent count as activations.
    """

    def __init__(self) -> None:
        self._counts: dict[CallKind, Counter[tuple[str, str]]] = {kind: Counter() for kind in CallKind}

    def add(self, kind: CallKind, cut: str, payload: str, direction: Direction, num_bytes: int) -> None:
        """Count a transfer.

        Args:
            kind: what the call is for.
            cut: ``"cut_1"`` or ``"cut_2"``.
            payload: ``"activation"`` or ``"gradient"``.
            direction: from or to the data's owner.
            num_bytes: the buffers' size.
        """
        self._counts[kind][cut, f"{payload}_{direction}_bytes"] += num_bytes

    def totals(self, kind: CallKind = CallKind.TRAIN) -> dict[str, dict[str, int]]:
        """Return the bytes so far by cut, then by payload and direction (`COUNTS`)."""
        return {cut: {name: self._counts[kind][cut, name] for name in COUNTS} for cut in CUT_NAMES}

    def reset(self, kind: CallKind) -> None:
        """Forget what calls of a kind have sent."""
        self._counts[kind].clear()

    def add_totals(self, kind: CallKind, totals: Mapping[str, Mapping[str, int]]) -> None:
        """Add counts as `totals` returns them, for example those of a checkpoint."""
        for cut, counts in totals.items():
            self._counts[kind].update({(cut, name): count for name, count in counts.items()})
