"""Which state of which run a saved file holds, so that files of two states are never put together."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_MOST_DIGITS = 20


def new_run_id() -> str:
    """Return an id that no other run has."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Stamp:
    """The run and the optimizer step that a saved file is of.

    Attributes:
        run: the id of the run's start, as in ``summary.json``. A run that goes on has another id from there on: settings may
            be others then, so that a step may be taken twice with different results.
        step: the number of optimizer steps after which the file's tensors were as they are.
    """

    run: str
    step: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a file."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Any) -> Stamp | None:
        """Read the values that `to_dict` returned; None where there are none, or not those of a stamp."""
        if not isinstance(values, Mapping):
            return None
        run, step = values.get("run"), values.get("step")
        # Headers of safetensors files hold texts alone.
        if isinstance(step, str) and step.isascii() and step.isdigit() and len(step) < _MOST_DIGITS:
            step = int(step)
        return cls(run, step) if isinstance(run, str) and type(step) is int else None

    def __str__(self) -> str:
        return f"run {self.run} at step {self.step}"
