"""Noise of d_chi-privacy has the lengths that its density says, and the nearest token is the nearest."""

from __future__ import annotations

import pytest
import torch

from splitlearn.model import draw_noise, nearest_tokens


def test_lengths_have_a_gamma_distribution_and_directions_none_of_their_own() -> None:
    noise = draw_noise(torch.Size((4000, 16)), 2.0, torch.Generator().manual_seed(0))
    lengths = noise.norm(dim=-1)
    assert float(lengths.mean()) == pytest.approx(16 / 2, rel=0.02)
    assert float(lengths.var()) == pytest.approx(16 / 4, rel=0.1)
    assert float(noise.mean(0).norm()) < 0.15
    assert torch.equal(noise, draw_noise(torch.Size((4000, 16)), 2.0, torch.Generator().manual_seed(0)))


def test_the_nearest_token_is_that_of_all_distances() -> None:
    generator = torch.Generator().manual_seed(1)
    table, vectors = torch.randn(300, 8, generator=generator), torch.randn(5, 40, 8, generator=generator)
    expected = torch.cdist(vectors.flatten(0, 1), table).argmin(dim=1).view(5, 40)
    assert torch.equal(nearest_tokens(vectors, table), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_tokens(vectors, table), expected), "in mixed precision, too"
