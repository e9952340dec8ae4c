"""Counting how often an example is sent, for the accountant.

Shapes: B rows of a batch, N examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class _Count:
    # Times that each example was sent, by its id.
    by_row_N: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int32))
    # Batches whose examples have no ids: one and the same example may have been in all of them.
    without_ids: int = 0


class Releases:
    """How often examples were sent, by kind of call. Counts only grow: what was sent stays sent."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def count(self, kind: str, rows_B: torch.Tensor | None) -> None:
        """Count a batch.

        Args:
            kind: kind of call; the examples of different kinds are different ones.
            rows_B: the examples' ids, shape (B); None if they have none.
        """
        count = self._counts.setdefault(kind, _Count())
        if rows_B is None:
            count.without_ids += 1
            return
        added_N = torch.bincount(rows_B.cpu().long()).int()
        count.by_row_N = _padded(count.by_row_N, len(added_N))
        count.by_row_N[: len(added_N)] += added_N

    def most(self, kind: str) -> int:
        """Return how often an example was sent at most; an upper bound where examples have no ids.

        Args:
            kind: kind of call.
        """
        count = self._counts.get(kind, _Count())
        return int(count.by_row_N.max()) + count.without_ids if len(count.by_row_N) else count.without_ids

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as tensors and plain values, by kind of call."""
        return {
            kind: {"by_row": count.by_row_N.clone(), "without_ids": count.without_ids} for kind, count in self._counts.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the larger of the counts so far and those of `state_dict`, example by example."""
        for kind, saved in state.items():
            own, by_row_N = self._counts.setdefault(kind, _Count()), saved["by_row"].cpu()
            length = max(len(own.by_row_N), len(by_row_N))
            own.by_row_N = torch.maximum(_padded(own.by_row_N, length), _padded(by_row_N, length))
            own.without_ids = max(own.without_ids, saved["without_ids"])


def _padded(counts_N: torch.Tensor, length: int) -> torch.Tensor:
    missing = max(length - len(counts_N), 0)
    return torch.cat([counts_N, counts_N.new_zeros(missing)])
