"""NoPeek: smashed data that depend less on the tokens (Vepakomma et al., 2008.09161).

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import torch

from splitlearn.defences.defence import Defence, Draw
from splitlearn.defences.distance_correlation import distance_correlation
from splitlearn.defences.inputs import BottomInputs


class NoPeek(Defence):
    """Adds the distance correlation between the tokens' embeddings and the smashed data to the training loss.

    The embeddings are taken as they are: gradients go to the smashed data alone.

    Args:
        inputs: the bottom's input.
        draw: gives the generator that draws tokens.
        weight: how much the correlation, a number from 0 to 1, counts beside the loss in nats.
        positions: tokens of a batch that it is computed from, drawn at random; memory grows with their square.
    """

    name = "nopeek"

    def __init__(self, inputs: BottomInputs, draw: Draw, weight: float, positions: int) -> None:
        super().__init__()
        self._inputs, self._draw = inputs, draw
        self._weight, self._positions = weight, positions

    def loss_term(self, cut: int, hidden_BTD: torch.Tensor) -> torch.Tensor | None:
        """Return the weighted distance correlation of some tokens."""
        ids_N, hidden_ND = self._inputs.choose(hidden_BTD, self._positions, self._draw(hidden_BTD.device))
        correlation = distance_correlation(self._inputs.embed(ids_N), hidden_ND)
        self.figures = {"train_distance_correlation": correlation.detach()}
        return self._weight * correlation
