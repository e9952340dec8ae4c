"""The seconds of training steps by phase."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

# In the order of a step. "step" is the whole of it: the other phases, and what Lightning does between them.
PHASES = ("data", "bottom", "cut_1", "trunk", "cut_2", "top", "backward", "optimizer", "step")
# What is noted beside the phases, in which it lies, where other parties hold parts.
OF_OTHERS = ("waiting_for_servers", "at_servers")
# Time of a step that belongs to no phase.
BETWEEN = "between"
# Those known where phases cannot be told apart: work that a GPU was given goes on while the CPU is in the next phase.
_OF_THE_CPU = ("data", "step")
# Checkpoints hold the steps, so their number is bounded.
_MOST_STEPS = 10_000
_PERCENTILES = {"median_s": 50, "p95_s": 95, "p99_s": 99}


class StepClock:
    """Adds up the seconds of each phase of a step, and keeps those of the last 10,000 steps.

    The first step after each `begin` is left out: memory is allocated and layers are compiled in it.

    Args:
        wait: has the devices finish what they were given; None if they never run behind.
        tells_phases_apart: whether to wait at the end of each phase. Without it the clock waits where it is stopped, and only
            ``data`` and ``step`` are known.
        beside: names of what is noted beside the phases.
    """

    def __init__(
        self, wait: Callable[[], None] | None = None, tells_phases_apart: bool = True, beside: Sequence[str] = ()
    ) -> None:
        self._wait = wait
        self._tells_phases_apart = tells_phases_apart
        self._names = (*(PHASES if tells_phases_apart else _OF_THE_CPU), *beside)
        self._steps: deque[tuple[float, ...]] = deque(maxlen=_MOST_STEPS)
        self.begin()

    @property
    def num_steps(self) -> int:
        """How many steps are kept."""
        return len(self._steps)

    def begin(self) -> None:
        """Forget the step under way, and take the next one for the first."""
        self._is_first = True
        self._phase: str | None = None
        self._since_s = 0.0
        self._seconds: dict[str, float] = {}
        self._noted: dict[str, float] = {}

    def note(self, name: str, seconds: float) -> None:
        """Add seconds of the step under way that are measured elsewhere, and lie within its phases or beside them.

        Args:
            name: one of those that the clock was made with.
            seconds: how many.
        """
        self._noted[name] = self._noted.get(name, 0.0) + seconds

    def enter(self, phase: str | None) -> None:
        """End the phase under way and begin another.

        Args:
            phase: one of `PHASES`, or `BETWEEN`; None stops the clock.
        """
        if self._wait is not None and (self._tells_phases_apart or phase is None):
            self._wait()
        now_s = time.perf_counter()
        if self._phase is not None:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now_s - self._since_s
        self._phase, self._since_s = phase, now_s

    def end_step(self) -> dict[str, float]:
        """End the step under way.

        Returns:
            Its seconds by phase, ``step`` included; empty for the first step, which is not kept.
        """
        seconds, self._seconds = self._seconds, {}
        noted, self._noted = self._noted, {}
        if self._is_first:
            self._is_first = False
            return {}
        seconds["step"] = sum(seconds.values())
        seconds |= noted
        step = tuple(seconds.get(name, 0.0) for name in self._names)
        self._steps.append(step)
        return dict(zip(self._names, step, strict=True))

    def summary(self) -> dict[str, Any] | None:
        """Return ``num_steps``, and for each phase ``median_s``, ``p95_s`` and ``p99_s``; None if no step is kept."""
        if not self._steps:
            return None
        table = np.percentile(np.array(self._steps), list(_PERCENTILES.values()), axis=0)
        phases = {
            name: dict(zip(_PERCENTILES, map(float, column), strict=True))
            for name, column in zip(self._names, table.T, strict=True)
        }
        return {"num_steps": self.num_steps, **phases}

    def state_dict(self) -> dict[str, Any]:
        """Return the steps that are kept: the phases' names, and seconds of shape (steps, phases)."""
        seconds = torch.tensor(list(self._steps), dtype=torch.float64).reshape(-1, len(self._names))
        return {"phases": list(self._names), "seconds": seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; steps of other phases, as on other devices, are passed over."""
        if state["phases"] == list(self._names):
            self._steps.extend(tuple(step) for step in state["seconds"].tolist())
