"""Numbers of a few bits lie in bytes without gaps."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from splitlearn.boundary.codecs.packing import num_packed_bytes, pack, unpack


def test_two_numbers_of_four_bits_share_a_byte() -> None:
    assert pack(torch.tensor([1, 2, 15]), 4).tolist() == [0x21, 0x0F]


@given(num_bits=st.integers(1, 7), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_packed_numbers_come_back(num_bits: int, width: int, seed: int) -> None:
    numbers = torch.randint(2**num_bits, (3, width), generator=torch.Generator().manual_seed(seed))
    packed = pack(numbers, num_bits)
    assert packed.dtype == torch.uint8 and packed.shape == (3, num_packed_bytes(width, num_bits))
    assert torch.equal(unpack(packed, num_bits, width), numbers)
