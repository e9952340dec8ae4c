"""Half a byte for each number after a rotation."""

from __future__ import annotations

from splitlearn.boundary.codecs.chain import Chain
from splitlearn.boundary.codecs.hadamard import Hadamard
from splitlearn.boundary.codecs.int4 import Int4


class Int4Hadamard(Chain):
    """`Hadamard`, then `Int4`: the rotation leaves no outliers, so that one scale for a whole token will do.

    Args:
        group_size: rotated numbers that share a scale; None gives all numbers of a token one scale.

    Raises:
        ValueError: the size is no positive whole number.
    """

    name = "int4_hadamard"

    def __init__(self, group_size: int | None = None) -> None:
        super().__init__([Hadamard(), Int4(group_size)])
