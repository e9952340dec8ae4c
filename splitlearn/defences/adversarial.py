"""Adversarial training: smashed data from which a trained inverter reads less.

Shapes: B rows, T tokens, N chosen tokens, D hidden size, E embedding size, V vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from splitlearn.defences.defence import Defence, Draw
from splitlearn.defences.inputs import BottomInputs


class TokenInverter(nn.Module):
    """Guesses a token from its hidden state: a small network whose output is compared with all tokens' embeddings.

    Args:
        hidden_size: numbers of a hidden state (D).
        embedding_size: numbers of an embedding (E).
        width: numbers of the layer between.
        generator: draws the initial weights.
    """

    def __init__(self, hidden_size: int, embedding_size: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        # Hidden states of tokens differ in size by orders of magnitude.
        self.norm = nn.LayerNorm(hidden_size)
        self.up = nn.utils.skip_init(nn.Linear, hidden_size, width)
        self.down = nn.utils.skip_init(nn.Linear, width, embedding_size)
        self.log_scale = nn.Parameter(torch.zeros(()))
        for layer in (self.up, self.down):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, hidden_ND: torch.Tensor, embedding_VE: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (N, V).

        Args:
            hidden_ND: hidden states, shape (N, D).
            embedding_VE: the tokens' embeddings, shape (V, E).
        """
        guess_NE = self.down(nn.functional.gelu(self.up(self.norm(hidden_ND.float()))))
        return guess_NE @ embedding_VE.float().T * self.log_scale.exp()


class AdversarialTraining(Defence):
    """Trains an inverter on the smashed data, and has the bottom learn what that inverter reads less from.

    Both take one backward pass: the inverter minimises its loss, and the gradient that goes on to the bottom is turned around.
    Tokens that the inverter guesses no better than by chance are left alone, since its loss has no upper bound.

    Args:
        inputs: the bottom's input.
        draw: gives the generator of initial weights and chosen tokens.
        hidden_size: numbers of a hidden state (D).
        weight: how much the inverter's loss counts against the training loss, both in nats for each token.
        positions: tokens of a batch that the inverter is trained on.
        width: numbers of its layer between.
        learning_rate: of its own AdamW.
    """

    name = "adversarial"

    def __init__(
        self,
        inputs: BottomInputs,
        draw: Draw,
        hidden_size: int,
        *,
        weight: float,
        positions: int,
        width: int,
        learning_rate: float,
    ) -> None:
        super().__init__()
        self._inputs, self._draw, self._weight, self._positions = inputs, draw, weight, positions
        embedding_size = inputs.table().shape[1]
        self.inverter = TokenInverter(hidden_size, embedding_size, width, draw(torch.device("cpu")))
        self.optimizer = torch.optim.AdamW(self.inverter.parameters(), lr=learning_rate)

    def loss_term(self, cut: int, hidden_BTD: torch.Tensor) -> torch.Tensor | None:
        """Return the inverter's loss on some tokens; its gradient reaches the smashed data turned around."""
        self._to(hidden_BTD.device)
        ids_N, hidden_ND = self._inputs.choose(hidden_BTD, self._positions, self._draw(hidden_BTD.device))
        turning = _Turning(torch.zeros(len(ids_N), 1, device=hidden_BTD.device))
        embedding_VE = self._inputs.table().to(hidden_BTD.device)
        logits_NV = self.inverter(_TurnAround.apply(hidden_ND, turning), embedding_VE)
        losses_N = nn.functional.cross_entropy(logits_NV, ids_N, reduction="none")
        chance = math.log(logits_NV.shape[1])
        turning.weights_N1 = self._weight * (losses_N.detach() < chance).to(hidden_BTD.dtype).unsqueeze(1)
        accuracy = (logits_NV.detach().argmax(dim=1) == ids_N).float().mean()
        self.figures = {"train_adversary_loss": losses_N.detach().mean(), "train_adversary_accuracy": accuracy}
        return losses_N.mean()

    def step(self) -> None:
        """Step the inverter by the gradients of the batches since its last step."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return the inverter's weights, its optimizer's state, and the gradients of a step under way."""
        gradients = {name: each.grad for name, each in self.inverter.named_parameters() if each.grad is not None}
        return {"inverter": self.inverter.state_dict(), "optimizer": self.optimizer.state_dict(), "gradients": gradients}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: the inverter has another shape.
        """
        try:
            self.inverter.load_state_dict(state["inverter"])
        except RuntimeError as error:
            raise ValueError(
                "the checkpoint's inverter of the adversarial training has another shape than this run's; go on with the width "
                "and the model that it was trained with"
            ) from error
        self.optimizer.load_state_dict(state["optimizer"])
        for name, parameter in self.inverter.named_parameters():
            gradient = state["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device)

    def _to(self, device: torch.device) -> None:
        if self.inverter.log_scale.device != device:
            # The parameters stay the same objects, which the optimizer steps; its state follows them.
            self.inverter.to(device)
            self.optimizer.load_state_dict(self.optimizer.state_dict())


@dataclass
class _Turning:
    # By what the gradient of each token is multiplied; it is known once the losses are.
    weights_N1: torch.Tensor


class _TurnAround(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, turning: _Turning) -> torch.Tensor:
        ctx.turning = turning
        return hidden_ND.view_as(hidden_ND)

    @staticmethod
    def backward(ctx: Any, gradient_ND: torch.Tensor) -> Any:
        return -ctx.turning.weights_N1 * gradient_ND, None
