"""Smashed data on a scale that linear maps and networks can learn from.

Shapes: N pieces of text, T tokens, M vectors, D hidden size, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

# Standard deviations beyond which values are clamped.
_CLAMP = 8.0
# From the median absolute deviation to the standard deviation of a normal distribution.
_MAD_TO_STD = 1.4826
# Vectors that are this many times longer than the median one are large: tokens on which attention rests, usually the first.
_LARGE = 4.0
_NUM_SAMPLED = 8192
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Centres and scales each channel by its median and median absolute deviation, and clamps what is far out.

    The first position's vectors, and a few channels, are up to hundreds of times larger than the rest. Means and variances
    would be theirs alone. Large vectors have a centre of their own, so that their tokens can be told as well, and a last
    feature marks them.

    Attributes:
        centre_D: median of each channel of ordinary vectors, shape (D,).
        scale_D: robust standard deviation of each of their channels.
        large_centre_D: median of each channel of large vectors.
        large_gain: how many times more large vectors vary, over all channels.
        large_from: root mean square from which on a vector is large.
    """

    centre_D: torch.Tensor
    scale_D: torch.Tensor
    large_centre_D: torch.Tensor
    large_gain: torch.Tensor
    large_from: torch.Tensor

    @classmethod
    def fit(cls, crossed_NTD: torch.Tensor) -> Standardizer:
        """Measure smashed data.

        Args:
            crossed_NTD: smashed data, shape (N, T, D); a random sample of the vectors is looked at.
        """
        vectors_MD = crossed_NTD.flatten(0, 1)
        sizes_M = _sizes(vectors_MD)
        large_from = _LARGE * sizes_M.median()
        is_large_M = sizes_M > large_from
        centre_D, scale_D = _robust(_sample(vectors_MD[~is_large_M]))
        # A channel that hardly ever changes is left on the scale of the others.
        scale_D = scale_D.clamp(min=scale_D.median().clamp(min=_TINY) * 1e-3)
        if not is_large_M.any():
            return cls(centre_D, scale_D, centre_D, torch.ones(()), large_from)
        large_centre_D, large_scale_D = _robust(_sample(vectors_MD[is_large_M]))
        gain = (large_scale_D / scale_D).median()
        # A single large vector does not vary.
        return cls(centre_D, scale_D, large_centre_D, gain if gain > 0 else torch.ones(()), large_from)

    def __call__(self, crossed: torch.Tensor) -> torch.Tensor:
        """Return smashed data (..., D) as features (..., D + 1) on the scale of a standard normal distribution, in float32."""
        values = crossed.float()
        is_large = (_sizes(values) > self.large_from).unsqueeze(-1)
        ordinary = (values - self.centre_D) / self.scale_D
        large = (values - self.large_centre_D) / (self.scale_D * self.large_gain)
        return torch.cat([torch.where(is_large, large, ordinary).clamp(-_CLAMP, _CLAMP), is_large.float()], dim=-1)

    def to(self, device: torch.device) -> Standardizer:
        """Return the same with its measures on a device.

        Args:
            device: where smashed data will be given.
        """
        return Standardizer(*(getattr(self, field.name).to(device) for field in fields(self)))


def _sizes(vectors: torch.Tensor) -> torch.Tensor:
    return vectors.float().square().mean(dim=-1).sqrt()


def _sample(vectors_MD: torch.Tensor) -> torch.Tensor:
    return vectors_MD[torch.randperm(len(vectors_MD))[:_NUM_SAMPLED]].float()


def _robust(sample_MD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the median of each channel, and its standard deviation judged by the median distance from that."""
    median_D = sample_MD.median(dim=0).values
    return median_D, (sample_MD - median_D).abs().median(dim=0).values * _MAD_TO_STD
