"""Smashed data are put on one scale, large vectors and large channels too."""

from __future__ import annotations

import torch

from splitlearn.attacks.features import Standardizer


def smashed(seed: int = 0) -> torch.Tensor:
    """Return smashed data as trained models have them: one large channel, and a first position that is far from the others."""
    hidden_NTD = torch.randn(200, 6, 16, generator=torch.Generator().manual_seed(seed))
    hidden_NTD[..., 3] *= 50
    hidden_NTD[:, 0] += 1000
    return hidden_NTD


def test_ordinary_and_large_vectors_are_centred_and_scaled() -> None:
    features = Standardizer.fit(smashed())(smashed(1))
    assert features.shape == (200, 6, 17)
    for position in (0, 3):
        values = features[:, position, :16]
        assert values.mean(dim=0).abs().max() < 0.5 and (values.std(dim=0) - 1).abs().max() < 0.3
    assert (features[:, 0, 16] == 1).all() and (features[:, 1:, 16] == 0).all()


def test_what_is_far_out_is_clamped_and_nothing_is_divided_by_zero() -> None:
    hidden_NTD = smashed()
    hidden_NTD[..., 5] = 7
    far_NTD = hidden_NTD[:1].clone()
    far_NTD[0, 1, 2] = 60
    features = Standardizer.fit(hidden_NTD)(far_NTD)
    assert features[0, 1, 2] == 8 and features.isfinite().all()
    assert Standardizer.fit(torch.zeros(2, 3, 4))(torch.zeros(2, 3, 4)).isfinite().all()
    alone = Standardizer.fit(torch.cat([torch.randn(40, 4), torch.full((1, 4), 900.0)])[None])
    assert alone(torch.full((1, 1, 4), 900.0)).isfinite().all()
