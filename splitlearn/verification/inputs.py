"""Token ids to compare models on.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig


def draw_ids(config: PreTrainedConfig, num_rows: int, num_tokens: int, seed: int, num_new_tokens: int = 0) -> torch.Tensor:
    """Return random token ids (B, T) of the model's vocabulary, leaving positions for new tokens.

    Raises:
        ValueError: there is not at least one row of two tokens, or the model has fewer positions.
    """
    text = config.get_text_config(decoder=True)
    positions = getattr(text, "max_position_embeddings", None)
    are_counts = all(isinstance(each, int) and not isinstance(each, bool) for each in (num_rows, num_tokens, num_new_tokens))
    if not are_counts or num_rows < 1 or num_tokens < 2 or num_new_tokens < 0:
        raise ValueError(
            f"cannot compare on {num_rows} rows of {num_tokens} tokens and {num_new_tokens} new ones: "
            "give at least 1 row of 2 tokens, and 0 or more new ones"
        )
    if positions is not None and num_tokens + num_new_tokens > positions:
        raise ValueError(
            f"{num_tokens} tokens and {num_new_tokens} new ones exceed the model's {positions} positions; give fewer"
        )
    return torch.randint(0, text.vocab_size, (num_rows, num_tokens), generator=torch.Generator().manual_seed(seed))


def padded(ids_BT: torch.Tensor, side: str) -> torch.Tensor:
    """Return an attention mask (B, T) that hides a quarter of the first row, on the left, the right, or with "no" nothing."""
    mask_BT = torch.ones_like(ids_BT)
    hidden = ids_BT.shape[1] // 4
    if hidden and side != "no":
        mask_BT[0, slice(0, hidden) if side == "left" else slice(-hidden, None)] = 0
    return mask_BT
