"""The tokens that the bottom was last given, for defences that compare what crosses with them.

Shapes: B rows, T tokens, N chosen tokens, D hidden size, V vocabulary size, E embedding size.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from splitlearn.model import SplitModel


class BottomInputs:
    """Notes the token ids of the bottom's last call.

    Args:
        bottom: the part; a hook is put on it.
    """

    def __init__(self, bottom: SplitModel) -> None:
        self._embedding = bottom.model.get_input_embeddings()
        self._ids_BT = torch.zeros(0, 0, dtype=torch.long)
        self._mask: Any = None
        bottom.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._ids_BT = args[0] if args else kwargs["inputs"]
        self._mask = kwargs.get("attention_mask")

    def table(self) -> torch.Tensor:
        """The rows of the token embedding, shape (V, E), without gradients."""
        weight = self._embedding.weight
        return cast(torch.Tensor, weight).detach()

    def real_tokens(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """Return True for tokens and False for padding, shape (B, T), on the device of the hidden states.

        Args:
            hidden_BTD: what the bottom made of its last input, shape (B, T, D).

        Raises:
            ValueError: the hidden states are not of the bottom's last input.
        """
        if hidden_BTD.shape[:2] != self._ids_BT.shape:
            raise ValueError(
                f"smashed data of shape {tuple(hidden_BTD.shape)} are not of the bottom's last ids, of shape "
                f"{tuple(self._ids_BT.shape)}; defences that compare the two need the bottom's own run just before"
            )
        if isinstance(self._mask, torch.Tensor) and self._mask.shape == self._ids_BT.shape:
            return (self._mask != 0).to(hidden_BTD.device)
        return torch.ones(self._ids_BT.shape, dtype=torch.bool, device=hidden_BTD.device)

    def choose(self, hidden_BTD: torch.Tensor, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw tokens of the batch at random, without padding.

        Args:
            hidden_BTD: what the bottom made of its last input, shape (B, T, D).
            count: how many tokens at most.
            generator: draws them.

        Returns:
            Their ids (N) and their hidden states (N, D), on the device of the latter.

        Raises:
            ValueError: the hidden states are not of the bottom's last input.
        """
        places_N = self.real_tokens(hidden_BTD).flatten().nonzero().flatten()
        order_N = torch.randperm(len(places_N), generator=generator, device=generator.device)[:count]
        places_N = places_N[order_N.to(places_N.device)]
        ids_N = self._ids_BT.flatten().to(hidden_BTD.device)[places_N]
        return ids_N, hidden_BTD.flatten(2).flatten(0, 1)[places_N]

    def embed(self, ids_N: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens, shape (N, E), without gradients.

        Args:
            ids_N: token ids, shape (N).
        """
        embedding_VE = self.table()
        return embedding_VE[ids_N.to(embedding_VE.device)].to(ids_N.device)
