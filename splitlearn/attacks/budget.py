"""Limits of an attack, and what it used of them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Budget:
    """The most that an attack may use; None is no limit.

    Args:
        pieces: auxiliary pieces of text that it may train on.
        steps: optimizer steps, or candidates tried by a search.
        seconds: wall time. An attack ends at its next step after that, so it may take a little longer.

    Raises:
        ValueError: a limit is negative.
    """

    pieces: int | None = None
    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if limit is not None and limit < 0:
                raise ValueError(f"an attack's budget of {name} is {limit}; use 0 or more, or None for no limit")

    def start(self) -> BudgetMeter:
        """Return a meter that counts from now."""
        return BudgetMeter(self)


@dataclass(frozen=True)
class BudgetUse:
    """What an attack used.

    Attributes:
        pieces: auxiliary pieces of text that it trained on.
        steps: optimizer steps, or candidates tried by a search.
        seconds: wall time.
        ended_by: the limit that ended it before it was done: ``"steps"`` or ``"seconds"``; None if it was done.
        limits: what it was allowed.
    """

    pieces: int
    steps: int
    seconds: float
    ended_by: str | None
    limits: Budget

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return asdict(self)


@dataclass
class BudgetMeter:
    """Counts what an attack uses, and says when it must end.

    Attributes:
        limits: the budget.
        pieces: auxiliary pieces used so far.
        steps: steps taken so far.
        ended_by: the limit that was reached; None for none.
    """

    limits: Budget
    pieces: int = 0
    steps: int = 0
    ended_by: str | None = None
    _began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Wall time since the meter was made."""
        return time.perf_counter() - self._began

    def take_pieces(self, available: int) -> int:
        """Return how many auxiliary pieces may be used, and count them as used.

        Args:
            available: how many there are.
        """
        self.pieces = available if self.limits.pieces is None else min(available, self.limits.pieces)
        return self.pieces

    def take_step(self, steps: int = 1) -> bool:
        """Count steps that are about to be taken, unless the budget is used up.

        Args:
            steps: how many.

        Returns:
            Whether they may be taken. Once they may not, the attack must end with what it has; `ended_by` says why.
        """
        if self.limits.steps is not None and self.steps + steps > self.limits.steps:
            self.ended_by = self.ended_by or "steps"
        if self.limits.seconds is not None and self.seconds >= self.limits.seconds:
            self.ended_by = self.ended_by or "seconds"
        if self.ended_by is None:
            self.steps += steps
        return self.ended_by is None

    def progress(self, total_steps: int) -> float:
        """Return how much of the way is done, between 0 and 1, so that a learning rate ends low whichever limit comes first.

        Args:
            total_steps: steps that the attack takes if nothing ends it.
        """
        steps = total_steps if self.limits.steps is None else min(total_steps, self.limits.steps)
        shares = [self.steps / steps if steps else 1.0]
        if self.limits.seconds is not None:
            shares.append(self.seconds / self.limits.seconds if self.limits.seconds else 1.0)
        return min(1.0, max(shares))

    def use(self) -> BudgetUse:
        """Return what has been used so far."""
        return BudgetUse(self.pieces, self.steps, round(self.seconds, 3), self.ended_by, self.limits)
