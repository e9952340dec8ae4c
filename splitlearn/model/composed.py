"""Bottom, trunk and top run as one causal LM.

Shapes: B rows, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from splitlearn.model.split_model import SplitModel


class ComposedCausalLM(nn.Module):
    """The three parts of one model, called like the unsplit transformers model.

    Args:
        bottom: embeddings and first layers.
        trunk: middle layers.
        top: last layers, final norm and head.

    Raises:
        ValueError: the parts are not bottom, trunk and top of one cut.
    """

    def __init__(self, bottom: SplitModel, trunk: SplitModel, top: SplitModel) -> None:
        super().__init__()
        found = [(part.part.name, part.part.start, part.part.end, part.part.num_layers) for part in (bottom, trunk, top)]
        num_layers = bottom.part.num_layers
        cuts = bottom.part.end, trunk.part.end
        wanted = [("bottom", 0, cuts[0], num_layers), ("trunk", *cuts, num_layers), ("top", cuts[1], num_layers, num_layers)]
        if found != wanted:
            raise ValueError(f"these are not bottom, trunk and top of one cut: {found} (name, start, end, layers)")
        self.bottom = bottom
        self.trunk = trunk
        self.top = top

    @property
    def parts(self) -> tuple[SplitModel, SplitModel, SplitModel]:
        """Bottom, trunk and top."""
        return self.bottom, self.trunk, self.top

    def make_caches(self) -> tuple[DynamicCache, DynamicCache, DynamicCache]:
        """Return one empty key-value cache for each part, to pass as ``caches``."""
        return self.bottom.make_cache(), self.trunk.make_cache(), self.top.make_cache()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        caches: Sequence[DynamicCache] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the three parts.

        Args:
            input_ids: token ids, shape (B, T).
            attention_mask: 1 for real tokens and 0 for padding, shape (B, T), with cached tokens first.
            position_ids: positions of the tokens, shape (B, T).
            caches: one cache for each part, from `make_caches`; they are filled in place.
            **kwargs: further arguments for the top, for example ``labels``.

        Returns:
            What the unsplit model returns, with ``.logits`` of shape (B, T, V) on the top's device.
        """
        hidden: Any = input_ids
        for index, part in enumerate(self.parts):
            cache = None if caches is None else caches[index]
            extra = kwargs if part is self.top else {}
            hidden = part(hidden, attention_mask=attention_mask, position_ids=position_ids, past_key_values=cache, **extra)
        output: CausalLMOutputWithPast = hidden
        return output
