"""Solving linear equations whose matrix is known only by its products.

Shapes: N systems that are solved side by side, then any further dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Product = Callable[[torch.Tensor], torch.Tensor]


def solve_least_squares(
    multiply: Product,
    multiply_transposed: Product,
    target: torch.Tensor,
    num_steps: int,
    may_step: Callable[[], bool],
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Solve ``multiply(x) = target`` in the sense of least squares, by conjugate gradients on the normal equations (CGLS).

    Few steps regularize: directions in which the matrix is small are found last, and noise is largest there.

    Args:
        multiply: returns the product of the matrix with ``x``.
        multiply_transposed: returns the product of the transposed matrix with something of the target's shape.
        target: shape (N, ...).
        num_steps: the most steps.
        may_step: is asked before each step; False ends the search.
        start: where the search begins, of the shape of ``x``; None is 0.

    Returns:
        The solution so far, shape (N, ...).
    """
    residual = target if start is None else target - multiply(start)
    slope = multiply_transposed(residual)
    solution = torch.zeros_like(slope) if start is None else start.clone()
    direction, size = slope, _squares(slope)
    for _ in range(num_steps):
        if not may_step():
            break
        image = multiply(direction)
        length = _ratio(size, _squares(image))
        solution = solution + length * direction
        residual = residual - length * image
        slope = multiply_transposed(residual)
        size, before = _squares(slope), size
        direction = slope + _ratio(size, before) * direction
    return solution


def _squares(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of squares of each system, with its dimensions kept."""
    return values.square().sum(dim=tuple(range(1, values.ndim)), keepdim=True)


def _ratio(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    # A system that is solved has no slope left, and 0 / 0 would spoil it.
    return torch.where(below > 0, above / below, torch.zeros_like(above))
