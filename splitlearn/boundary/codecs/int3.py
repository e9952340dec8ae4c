"""Three bits for each number."""

from __future__ import annotations

from splitlearn.boundary.codecs.few_bits import FewBits


class Int3(FewBits):
    """Rounds each number to one of 7 levels between minus and plus the largest of its group.

    Args:
        group_size: numbers that share a scale; None gives all numbers of a token one scale.

    Raises:
        ValueError: the size is no positive whole number.
    """

    name = "int3"
    num_bits = 3

    def __init__(self, group_size: int | None = 32) -> None:
        super().__init__(group_size)
