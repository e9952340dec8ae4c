"""A rotation that spreads each number of a token over all of them.

Shapes: D numbers of one token, in the last dimension.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns

# A Hadamard matrix of this size is one multiplication; larger widths take several.
_MOST_AT_ONCE = 64


class Hadamard(Codec):
    """Rotates the numbers of a token, so that a codec with few levels meets no outliers.

    A few channels of a language model's hidden states are enormous, and a scale that reaches them leaves the other numbers
    without digits. After the rotation each number is a sum of all of them with random signs, so that they are of one size.

    Hadamard matrices have 1, 2 or a multiple of 4 rows, and simple ones a power of 2, which few widths are. A width D = 2^k x m
    with m odd takes the Kronecker product of Sylvester's matrix of 2^k and the discrete Hartley matrix of m, whose entries are
    (cos + sin)(2 pi i j / m) / sqrt(m): 64 x 9 for D = 576. Both are symmetric and orthogonal, so the rotation undoes itself.
    The signs are drawn from a fixed seed. Without them a token whose numbers have a common mean would get one large number.
    """

    name = "hadamard"

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return the rotated numbers in float32."""
        numbers = tensor.float()
        return {"values": rotate(numbers * _signs(numbers.shape[-1], numbers.device))}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return the numbers, rotated back."""
        numbers = rotate(columns["values"].float())
        return (numbers * _signs(numbers.shape[-1], numbers.device)).to(dtype)

    def next_width(self, width: int) -> int | None:
        """Return ``width``: any codec may follow."""
        return width


def rotate(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers of shape (..., D) times the rotation's matrix; rotating twice gives them back."""
    width = numbers.shape[-1]
    sizes = factors(width)
    turned = numbers.unflatten(-1, sizes)
    # Under autocast the products would be rounded to 16 bits.
    with torch.autocast("cuda" if numbers.is_cuda else "cpu", enabled=False):
        for place, size in enumerate(sizes, start=-len(sizes)):
            turned = (turned.movedim(place, -1) @ _matrix(size, numbers.device)).movedim(-1, place)
    return turned.reshape(numbers.shape)


@lru_cache
def factors(width: int) -> tuple[int, ...]:
    """Return sizes whose product is a width: powers of 2 up to 64, then the odd rest, if there is one."""
    sizes = []
    while width % 2 == 0:
        size = math.gcd(width, _MOST_AT_ONCE)
        sizes.append(size)
        width //= size
    return (*sizes, width) if width > 1 or not sizes else tuple(sizes)


@lru_cache
def _matrix(size: int, device: torch.device) -> torch.Tensor:
    if size % 2:
        angles = torch.arange(size, dtype=torch.float64).outer(torch.arange(size)) * (2 * math.pi / size)
        return ((angles.cos() + angles.sin()) / math.sqrt(size)).float().to(device)
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return (matrix / math.sqrt(size)).to(device)


@lru_cache
def _signs(width: int, device: torch.device) -> torch.Tensor:
    # Both ends draw the same: torch's generator on the CPU gives the same numbers on every machine.
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(2, (width,), generator=generator) * 2.0 - 1.0).to(device)
