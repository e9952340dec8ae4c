"""The outcome of one comparison, and the table of all outcomes."""

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
        subject: the compared values, in words.
        compared: how many numbers were compared.
        difference: the largest absolute difference; infinite if shapes differ or one side lacks values.
        is_remark: whether it compares the unsplit model with its own checkpoint, rather than with the parts.
    """

    subject: str
    compared: int
    difference: float
    is_remark: bool = False

    def is_equal(self, tolerance: float) -> bool:
        """Whether numbers were compared and differ by no more than the tolerance.

        Args:
            tolerance: the largest absolute difference that is allowed.
        """
        return self.is_remark or (self.compared > 0 and self.difference <= tolerance)


def compare_tensors(subject: str, expected: torch.Tensor, actual: torch.Tensor) -> Outcome:
    """Compare two tensors, on whichever devices they are.

    Args:
        subject: the compared values, in words.
        expected: the unsplit model's tensor.
        actual: the parts' tensor; another shape is an infinite difference.
    """
    if expected.shape != actual.shape:
        return Outcome(subject, expected.numel(), float("inf"))
    return Outcome(subject, expected.numel(), largest_difference(expected, actual))


def largest_difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Return the largest absolute difference of two tensors of one shape; infinite if one holds a NaN.

    Args:
        expected: a tensor.
        actual: a tensor of the same shape, perhaps on another device.
    """
    if expected.numel() == 0:
        return 0.0
    left, right = expected.detach().double(), actual.detach().to(expected.device).double()
    # Equal infinities count as equal, although their difference is NaN.
    gap = (left - right).abs().masked_fill(left == right, 0.0)
    return float(gap.nan_to_num(nan=float("inf"), posinf=float("inf")).max())


def print_outcomes(title: str, outcomes: Sequence[Outcome], tolerance: float) -> None:
    """Print one row for each comparison.

    Args:
        title: title of the table.
        outcomes: the comparisons.
        tolerance: the largest absolute difference that counts as equal.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("compared")
    for heading in ("numbers", "largest difference", "verdict"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        verdict = "remark" if outcome.is_remark else "equal" if outcome.is_equal(tolerance) else "DIFFERENT"
        table.add_row(outcome.subject, f"{outcome.compared:,}", f"{outcome.difference:.3g}", verdict)
    make_console().print(table)
