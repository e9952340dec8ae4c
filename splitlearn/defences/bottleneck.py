"""MID: a variational information bottleneck at the cut (Zou et al., 2301.01142; Alemi et al., 1612.00410).

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from splitlearn.boundary import Boundary, CallKind, Chain, Codec, CodecContext, Columns
from splitlearn.defences.defence import Defence
from splitlearn.defences.inputs import BottomInputs


class Standard:
    """The scale in which smashed data are compared with a standard normal: a centre and a width for each of their D numbers.

    They are medians, since the first token of a text and a few of the numbers are larger than all others by far. Measured once,
    in the first training batch: if they followed the data, these could shrink without losing anything.
    """

    def __init__(self) -> None:
        self.centre_D: torch.Tensor | None = None
        self.width_D: torch.Tensor | None = None

    def measure(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor | None) -> None:
        """Measure a batch, unless one was measured before.

        Args:
            hidden_BTD: smashed data, shape (B, T, D).
            mask_BT: True for real tokens, shape (B, T); None if all are.
        """
        if self.centre_D is not None:
            return
        tokens_ND = hidden_BTD.detach().float().flatten(0, 1)
        if mask_BT is not None:
            tokens_ND = tokens_ND[mask_BT.flatten().to(tokens_ND.device)]
        self.centre_D = tokens_ND.median(dim=0).values
        deviations_D = (tokens_ND - self.centre_D).abs().median(dim=0).values
        # Of a normal distribution the median deviation is 0.6745 standard deviations.
        self.width_D = (deviations_D / 0.6745).clamp(min=1e-6)

    def apply(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """Return smashed data in this scale.

        Args:
            hidden_BTD: smashed data, shape (B, T, D).

        Raises:
            RuntimeError: nothing was measured yet.
        """
        if self.centre_D is None or self.width_D is None:
            raise RuntimeError("the scale of the bottleneck is measured in the first training batch")
        return (hidden_BTD.float() - self.centre_D.to(hidden_BTD.device)) / self.width_D.to(hidden_BTD.device)

    def state_dict(self) -> dict[str, Any]:
        """Return ``centre`` and ``width``, each of shape (D); empty before the first batch."""
        return {} if self.centre_D is None else {"centre": self.centre_D, "width": self.width_D}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` returned."""
        self.centre_D, self.width_D = state.get("centre"), state.get("width")


class BottleneckNoise(Codec):
    """Adds the bottleneck's noise to smashed data. Its derivative is 1, so gradients pass as they are.

    Args:
        standard: the scale of the noise; before it is measured there is none.
        noise: standard deviation of the noise in that scale.
    """

    name = ""
    takes_error_feedback = False

    def __init__(self, standard: Standard, noise: float) -> None:
        self.name = "the noise of the bottleneck"
        self.standard, self.noise = standard, noise

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return ``values`` of the tensor's shape and dtype."""
        if context.place:
            return {"values": tensor}
        if context.kind is CallKind.TRAIN:
            self.standard.measure(tensor, context.token_mask)
        if self.standard.width_D is None:
            return {"values": tensor}
        draws = torch.randn(tensor.shape, generator=context.generator(tensor.device), device=tensor.device)
        return {"values": (tensor + draws * self.noise * self.standard.width_D.to(tensor.device)).to(tensor.dtype)}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return the noisy numbers."""
        return columns["values"].to(dtype)

    def next_width(self, width: int) -> int | None:
        """Return the same width: another codec may encode the noisy numbers."""
        return width


class Bottleneck(Defence):
    """Has the bottom learn smashed data that carry no more than they must through noise.

    Smashed data h, in the scale of `Standard`, are the mean of a normal distribution with the standard deviation ``noise``. A
    sample of it crosses the cut, and the divergence from a standard normal is added to the training loss: an upper bound of
    what a receiver learns. The standard deviation is a setting and is not learned.

    Args:
        boundary: the cut where smashed data leave the client; its codec gets the noise.
        inputs: the bottom's input.
        hidden_size: numbers of a hidden state (D).
        weight: how much the divergence, in nats for each number, counts beside the loss.
        noise: standard deviation of the noise.
    """

    name = "mid"

    def __init__(self, boundary: Boundary, inputs: BottomInputs, hidden_size: int, weight: float, noise: float) -> None:
        super().__init__()
        self._hidden_size = hidden_size
        self._inputs, self._weight, self._noise = inputs, weight, noise
        self.standard = Standard()
        boundary.codec = Chain([BottleneckNoise(self.standard, noise), boundary.codec])

    def loss_term(self, cut: int, hidden_BTD: torch.Tensor) -> torch.Tensor | None:
        """Return the weighted divergence."""
        real_BT = self._inputs.real_tokens(hidden_BTD)
        self.standard.measure(hidden_BTD, real_BT)
        divergence = divergence_of(self.standard.apply(hidden_BTD)[real_BT], self._noise)
        self.figures = {"train_divergence": divergence.detach()}
        return self._weight * divergence

    def measured(self) -> dict[str, Any]:
        """Return ``width``, a number for each of the D; empty before the first training batch."""
        width_D = self.standard.width_D
        return {} if width_D is None else {"width": [float(width) for width in width_D]}

    def load_measured(self, values: Any) -> None:
        """Go on with the widths that `measured` returned.

        Raises:
            ValueError: they are no numbers above 0, or not as many as the smashed data have.
        """
        widths = values.get("width") if isinstance(values, Mapping) else None
        is_list = isinstance(widths, list) and all(isinstance(width, float) and 0 < width < math.inf for width in widths)
        if not isinstance(widths, list) or not is_list or len(widths) != self._hidden_size:
            raise ValueError(f"the widths of the bottleneck are not {self._hidden_size} numbers above 0")
        self.standard.width_D = torch.tensor(widths)

    def state_dict(self) -> dict[str, Any]:
        """Return the scale; empty before the first batch."""
        return self.standard.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the scale that `state_dict` returned."""
        self.standard.load_state_dict(state)


def divergence_of(means: torch.Tensor, noise: float) -> torch.Tensor:
    """Return the Kullback-Leibler divergence of normal distributions from the standard one, in nats, the mean over all.

    Args:
        means: their means, any shape.
        noise: their standard deviation.
    """
    return 0.5 * (means.square() + noise**2 - 1 - 2 * math.log(noise)).mean()
