"""What one comparison gave, and the table of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.table import Table

from splitlearn.terminal import make_console


@dataclass(frozen=True)
class Outcome:
    """One comparison of the unsplit model with its parts.

    Attributes:
        what: what was compared.
        compared: how many numbers.
        difference: the largest absolute difference; infinite if shapes or what is there differ.
        is_remark: whether it says how the unsplit model differs from its checkpoint, and is no comparison with the parts.
    """

    what: str
    compared: int
    difference: float
    is_remark: bool = False

    def is_equal(self, tolerance: float) -> bool:
        """Whether the difference is within the tolerance and anything was compared."""
        return self.is_remark or (self.compared > 0 and self.difference <= tolerance)


def compare_tensors(what: str, expected: torch.Tensor, found: torch.Tensor) -> Outcome:
    """Compare two tensors, wherever they are."""
    if expected.shape != found.shape:
        return Outcome(what, expected.numel(), float("inf"))
    return Outcome(what, expected.numel(), largest_difference(expected, found))


def largest_difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the largest absolute difference of two tensors of one shape; infinite where one is not a number."""
    if expected.numel() == 0:
        return 0.0
    left, right = expected.detach().double(), found.detach().to(expected.device).double()
    # Equal infinities are equal; their difference would not be a number.
    gap = (left - right).abs().masked_fill(left == right, 0.0)
    return float(gap.nan_to_num(nan=float("inf"), posinf=float("inf")).max())


def print_outcomes(title: str, outcomes: Sequence[Outcome], tolerance: float) -> None:
    """Print one row for each comparison."""
    table = Table(title=title, title_justify="left")
    table.add_column("compared")
    for heading in ("numbers", "largest difference", "verdict"):
        table.add_column(heading, justify="right")
    for each in outcomes:
        verdict = "remark" if each.is_remark else "equal" if each.is_equal(tolerance) else "DIFFERENT"
        table.add_row(each.what, f"{each.compared:,}", f"{each.difference:.3g}", verdict)
    make_console().print(table)
