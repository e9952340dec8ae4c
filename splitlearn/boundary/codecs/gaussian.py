"""Noise on what crosses a cut, with or without clipping.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns
from splitlearn.boundary.codecs.releases import Releases
from splitlearn.naming import named

# Rehearsals of attacks release nothing, and generated text is no example.
_COUNTED = (CallKind.TRAIN, CallKind.EVALUATE)


class Gaussian(Codec):
    """Adds normally distributed noise to each number, in one of two ways.

    With ``clip`` and ``noise_multiplier`` each example (row of the batch) is first scaled down to a norm of at most ``clip``,
    and the noise has the standard deviation ``noise_multiplier * clip``. This is the Gaussian mechanism, and its epsilon is
    accounted for. With ``noise_rms`` nothing is clipped, and the noise is relative to the batch's median token by root mean
    square. This claims no epsilon. In both ways padding is sent as zeros, since the hidden states of padding show the tokens
    before it. Recorded outputs (router logits) pass as they are.

    Args:
        noise_rms: standard deviation of the noise as a multiple of the median root mean square of a token.
        clip: the largest norm of an example, over all its tokens and numbers.
        noise_multiplier: standard deviation of the noise as a multiple of ``clip``.
        delta: the delta for which epsilon is given.

    Attributes:
        releases: how often an example was sent, if it is clipped.

    Raises:
        ValueError: a setting is out of range, not one of the two ways is chosen, or the accountant is not installed.
    """

    name = "gaussian"
    takes_error_feedback = False

    def __init__(
        self,
        noise_rms: float | None = None,
        clip: float | None = None,
        noise_multiplier: float | None = None,
        delta: float = 1e-5,
    ) -> None:
        numbers = {"noise_rms": noise_rms, "clip": clip, "noise_multiplier": noise_multiplier, "delta": delta}
        for name, number in numbers.items():
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if number is not None and not (is_number and 0 < number < math.inf):
                raise ValueError(f"{named(name)} is {number!r}; give a positive number")
        if (clip is None) != (noise_multiplier is None) or (noise_rms is None) == (clip is None):
            raise ValueError(
                f"the codec gaussian has {named('noise_rms')}={noise_rms}, {named('clip')}={clip} and "
                f"{named('noise_multiplier')}={noise_multiplier}; give noise_rms alone, or clip with noise_multiplier"
            )
        if not delta < 1:
            raise ValueError(f"{named('delta')} is {delta!r}; give a probability below 1")
        if clip is not None and find_spec("opacus") is None:
            raise ValueError(
                f"{named('clip')} is {clip}, and the epsilon of clipped data is computed by opacus, which is not installed; "
                "pip install 'splitlearn[privacy]', or use noise_rms, which claims no epsilon"
            )
        self.noise_rms, self.clip, self.noise_multiplier, self.delta = noise_rms, clip, noise_multiplier, delta
        self.releases = Releases()

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return ``values`` of the tensor's shape and dtype."""
        if context.place:
            if self.clip is not None:
                self.releases.count(recorded(context.kind), None)
            return {"values": tensor}
        # In half precision a norm overflows.
        values = tensor if tensor.dtype == torch.float64 else tensor.float()
        real = _spread(context.token_mask, values)
        if real is not None:
            values = values.masked_fill(~real, 0)
        if self.clip is not None and self.noise_multiplier is not None:
            if context.kind in _COUNTED:
                self.releases.count(context.kind.value, context.rows_B)
            values = clip_rows(values, self.clip)
            deviation: torch.Tensor | float = self.clip * self.noise_multiplier
        else:
            deviation = (self.noise_rms or 0.0) * median_rms(values, context.token_mask)
        generator = context.generator(values.device)
        noise = torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype) * deviation
        if real is not None:
            noise = noise.masked_fill(~real, 0)
        return {"values": (values + noise).to(tensor.dtype)}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return the numbers with their noise."""
        return columns["values"].to(dtype)

    def next_width(self, width: int) -> int | None:
        """Return the same width: another codec may encode the noisy numbers."""
        return width

    def state_dict(self) -> dict[str, Any]:
        """Return how often examples were sent; empty if nothing was clipped."""
        return self.releases.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add what an earlier start of the run has sent."""
        self.releases.load_state_dict(state)


def recorded(kind: CallKind) -> str:
    """Return the name under which `Releases` counts recorded outputs, which are sent without noise.

    Args:
        kind: purpose of the call.
    """
    return f"{kind.value}/recorded"


def clip_rows(values: torch.Tensor, clip: float) -> torch.Tensor:
    """Scale each row down to a norm of at most ``clip``; shorter ones stay as they are.

    Args:
        values: one example in each row, shape (B, ...), padding as zeros.
        clip: the largest norm.
    """
    norms_B = torch.linalg.vector_norm(values.flatten(1), dim=1)
    factors_B = (clip / norms_B.clamp(min=clip)).view(-1, *[1] * (values.dim() - 1))
    return values * factors_B


def median_rms(values: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Return the median over tokens of the root mean square of their numbers, a scalar.

    Args:
        values: shape (B, T, D), or with more dimensions before the last.
        mask_BT: True for the tokens to look at, shape (B, T); None looks at all.
    """
    rms = values.square().mean(dim=-1).sqrt()
    return (rms if mask_BT is None else rms[mask_BT.to(rms.device)]).flatten().median() if rms.numel() else rms.new_zeros(())


def _spread(mask_BT: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor | None:
    if mask_BT is None:
        return None
    return mask_BT.to(values.device).view(*mask_BT.shape, *[1] * (values.dim() - 2))
