"""Counting the bytes that cross each cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.routes import Direction

CUT_NAMES = ("cut_1", "cut_2")
PAYLOADS = ("activation", "gradient")
COUNTS = tuple(f"{payload}_{direction}_bytes" for payload in PAYLOADS for direction in Direction)


class TrafficMeter:
    """Counts the bytes of the buffers that cross the cuts, by the purpose of the call.

    Masks, positions, labels and recorded outputs that are sent count as activations.
    """

    def __init__(self) -> None:
        self._counts: dict[CallKind, Counter[tuple[str, str]]] = {kind: Counter() for kind in CallKind}

    def add(self, kind: CallKind, cut: str, payload: str, direction: Direction, num_bytes: int) -> None:
        """Count a transfer.

        Args:
            kind: purpose of the call.
            cut: ``"cut_1"`` or ``"cut_2"``.
            payload: ``"activation"`` or ``"gradient"``.
            direction: from or to the data's owner.
            num_bytes: size of the buffers in bytes.
        """
        self._counts[kind][cut, f"{payload}_{direction}_bytes"] += num_bytes

    def totals(self, kind: CallKind = CallKind.TRAIN) -> dict[str, dict[str, int]]:
        """Return the bytes so far by cut, then by payload and direction (`COUNTS`).

        Args:
            kind: purpose of the calls that are counted.
        """
        return {cut: {name: self._counts[kind][cut, name] for name in COUNTS} for cut in CUT_NAMES}

    def reset(self, kind: CallKind) -> None:
        """Set the counts of one kind of call to 0.

        Args:
            kind: purpose of the calls.
        """
        self._counts[kind].clear()

    def add_totals(self, kind: CallKind, totals: Mapping[str, Mapping[str, int]]) -> None:
        """Add counts, for example those of a checkpoint.

        Args:
            kind: purpose of the calls that were counted.
            totals: bytes as `totals` returns them.
        """
        for cut, counts in totals.items():
            self._counts[kind].update({(cut, name): count for name, count in counts.items()})
