"""Smashed data on a scale that linear maps and networks can learn from.

Shapes: N pieces of text, T tokens, M vectors, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Standard deviations beyond which values are clamped.
_CLAMP = 8.0
# From the median absolute deviation to the standard deviation of a normal distribution.
_MAD_TO_STD = 1.4826
_NUM_SAMPLED = 8192


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Centres and scales each channel by its median and median absolute deviation, and clamps what is far out.

    A few channels and the first position of smashed data are a hundred times larger than the rest. Means and variances would be
    theirs alone, and clamping keeps them from drowning the other channels of the first position, which tell its token.

    Attributes:
        median_D: median of each channel, shape (D,).
        scale_D: robust standard deviation of each channel.
    """

    median_D: torch.Tensor
    scale_D: torch.Tensor

    @classmethod
    def fit(cls, crossed_NTD: torch.Tensor) -> Standardizer:
        """Measure the channels of smashed data.

        Args:
            crossed_NTD: smashed data, shape (N, T, D); some of the vectors are looked at.
        """
        vectors_MD = crossed_NTD.flatten(0, 1)
        step = max(1, len(vectors_MD) // _NUM_SAMPLED)
        sample_MD = vectors_MD[::step].float()
        median_D = sample_MD.median(dim=0).values
        deviation_D = (sample_MD - median_D).abs().median(dim=0).values * _MAD_TO_STD
        # A channel that hardly ever changes is left on the scale of the others.
        floor = deviation_D.median().clamp(min=torch.finfo(torch.float32).tiny) * 1e-3
        return cls(median_D, deviation_D.clamp(min=floor))

    def __call__(self, crossed_NTD: torch.Tensor) -> torch.Tensor:
        """Return smashed data (..., D) on the scale of a standard normal distribution, in float32."""
        return ((crossed_NTD.float() - self.median_D) / self.scale_D).clamp(-_CLAMP, _CLAMP)
