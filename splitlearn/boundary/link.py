"""What a step would take if the parties were connected by a network, from its bytes and its trips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitlearn.boundary.meter import COUNTS, CUT_NAMES

_BITS_IN_MEGABIT = 1e6
_MS = 1e-3


@dataclass(frozen=True)
class Link:
    """A network between the data's owner and the servers, as if nothing else used it.

    A step's parts run one after the other, and each waits for its data, so transfers add up and nothing is hidden behind
    computing. Data that go from a server to a server by way of the owner are two transfers.

    Attributes:
        bandwidth_mbps: megabits (10**6 bits) a second in each direction; None: bytes take no time.
        rtt_ms: milliseconds from sending a byte until an answer is here; None: 0.
    """

    bandwidth_mbps: float | None = None
    rtt_ms: float | None = None

    @property
    def is_reckoned(self) -> bool:
        """Whether there is anything to reckon with."""
        return self.bandwidth_mbps is not None or self.rtt_ms is not None

    def seconds(self, num_bytes: float, num_trips: float) -> float:
        """Return how long transfers take, one after the other.

        Args:
            num_bytes: bytes of all of them.
            num_trips: how many there are; each takes half of ``rtt_ms``.
        """
        sending_s = 0.0 if self.bandwidth_mbps is None else 8 * num_bytes / (self.bandwidth_mbps * _BITS_IN_MEGABIT)
        return sending_s + num_trips * (self.rtt_ms or 0.0) / 2 * _MS

    def predict(
        self, traffic: Mapping[str, Mapping[str, float]], compute_s: float | None, num_micro_batches: int = 1
    ) -> dict[str, Any]:
        """Return what an optimizer step would take over this link.

        Args:
            traffic: bytes of a step by cut, then by payload and direction, as `TrafficMeter.totals` returns them.
            compute_s: seconds of the step without the link; None if they are not known.
            num_micro_batches: batches whose gradients a step adds up; each makes its own trips.

        Returns:
            ``bandwidth_mbps``, ``rtt_ms``, ``bytes`` and ``trips`` of a step, ``link_s``, ``compute_s``, ``step_s`` for both
            together, and ``waiting_share``, the share of ``step_s`` that is spent waiting for the link. The last two are None
            where ``compute_s`` is.
        """
        counts = [traffic[cut][name] for cut in CUT_NAMES for name in COUNTS]
        num_trips = num_micro_batches * sum(count > 0 for count in counts)
        link_s = self.seconds(sum(counts), num_trips)
        step_s = None if compute_s is None else compute_s + link_s
        return {
            "bandwidth_mbps": self.bandwidth_mbps,
            "rtt_ms": self.rtt_ms,
            "bytes": sum(counts),
            "trips": num_trips,
            "link_s": link_s,
            "compute_s": compute_s,
            "step_s": step_s,
            "waiting_share": link_s / step_s if step_s else None,
        }
