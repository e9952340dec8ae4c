"""Noise on the embeddings of tokens, before the first layer: d_chi-privacy (Feyisetan et al., 1910.08902).

Shapes: B rows, T tokens, E embedding size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from splitlearn.model.split_model import SplitModel
from splitlearn.randomness import NamedGenerators, default_generators

# The name of the generator that it draws from.
EMBEDDING_NOISE = "bottom/embedding_noise"
# Distances to all tokens are computed for so many tokens at a time.
_AT_ONCE = 64


class EmbeddingNoise:
    """Adds noise z with density proportional to exp(-epsilon * |z|) to each token's embedding.

    Whatever comes of it is at most exp(epsilon * d) times as likely for one token as for another whose embedding is d away,
    each time that the token is sent.

    Args:
        epsilon: privacy of a token for each unit of distance between embeddings; the mean length of z is E / epsilon.
        nearest: whether a noisy embedding is replaced by that of the nearest token.

    Attributes:
        last_replaced_share: of the tokens of the last counted call, those for which another was nearest, a scalar; None before
            one, and without ``nearest``.
    """

    def __init__(self, epsilon: float, nearest: bool) -> None:
        self._epsilon, self._nearest = epsilon, nearest
        self.last_replaced_share: torch.Tensor | None = None
        # The sum of the shares stays on its device: to ask for its value in each step would have the step wait.
        self._sum_of_shares, self._num_calls = torch.zeros(()), 0

    @property
    def replaced_share(self) -> float | None:
        """The mean of `last_replaced_share` over all counted calls; None if there were none."""
        return self._sum_of_shares.item() / self._num_calls if self._num_calls else None

    @contextmanager
    def applied(self, bottom: SplitModel, generators: NamedGenerators | None, counted: bool = False) -> Iterator[None]:
        """Have the bottom's embeddings noisy while this lasts.

        Args:
            bottom: the part with the embedding.
            generators: random number generators by name; None takes the process's own.
            counted: whether to count how many tokens are replaced by others.
        """

        def add_noise(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            device = output.device
            own = default_generators(device)[-1] if generators is None else generators.generator(EMBEDDING_NOISE, device)
            noise = draw_noise(output.shape, self._epsilon, own)
            if not self._nearest:
                return output + noise.to(output.dtype)
            nearest_BT = nearest_tokens(output.detach().float() + noise, _table(module))
            if counted and args:
                self._count(args[0], nearest_BT)
            # Not a call of the module, which would come back here.
            return cast(torch.Tensor, module.forward(nearest_BT))

        hook = bottom.model.get_input_embeddings().register_forward_hook(add_noise)
        try:
            yield
        finally:
            hook.remove()

    def _count(self, ids_BT: torch.Tensor, nearest_BT: torch.Tensor) -> None:
        share = (ids_BT != nearest_BT).float().mean()
        self.last_replaced_share = share
        self._sum_of_shares, self._num_calls = self._sum_of_shares.to(share.device) + share, self._num_calls + 1


def draw_noise(shape: torch.Size, epsilon: float, generator: torch.Generator) -> torch.Tensor:
    """Return noise with density proportional to exp(-epsilon * |z|), in float32 on the generator's device.

    Args:
        shape: (..., E), a vector of E numbers for each token.
        epsilon: the density's.
        generator: draws it.
    """
    directions = torch.randn(shape, generator=generator, device=generator.device)
    directions /= torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
    # The length has a gamma distribution of shape E, which is a sum of E exponential ones.
    lengths = torch.empty(shape, device=generator.device).exponential_(epsilon, generator=generator).sum(dim=-1, keepdim=True)
    return directions * lengths


def nearest_tokens(vectors: torch.Tensor, embedding_VE: torch.Tensor) -> torch.Tensor:
    """Return the ids of the tokens whose embeddings are nearest.

    Args:
        vectors: shape (..., E), float32.
        embedding_VE: the tokens' embeddings, shape (V, E).

    Returns:
        Ids of shape (...).
    """
    table_VE = embedding_VE.detach().float()
    half_squares_V = table_VE.square().sum(dim=1) / 2
    rows = vectors.flatten(0, -2).split(_AT_ONCE)
    # Mixed precision would round the products, and near tokens would be taken for one another.
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.cat([(row @ table_VE.T - half_squares_V).argmax(dim=1) for row in rows]).view(vectors.shape[:-1])


@torch.no_grad()
def _table(module: nn.Module) -> torch.Tensor:
    """Return all embeddings as the module gives them: some architectures scale them."""
    weight = cast(torch.Tensor, module.weight)
    if type(module).forward is nn.Embedding.forward:
        return weight
    return cast(torch.Tensor, module.forward(torch.arange(len(weight), device=weight.device)))
