"""Half a byte for each number."""

from __future__ import annotations

from splitlearn.boundary.codecs.few_bits import FewBits


class Int4(FewBits):
    """Rounds each number to one of 15 levels between minus and plus the largest of its group.

    With one scale for a whole token the few channels that are enormous in language models leave the others without digits.

    Args:
        group_size: numbers that share a scale; None gives all numbers of a token one scale.

    Raises:
        ValueError: the size is no positive whole number.
    """

    name = "int4"
    num_bits = 4

    def __init__(self, group_size: int | None = 32) -> None:
        super().__init__(group_size)
