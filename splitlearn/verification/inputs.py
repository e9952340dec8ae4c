"""Token ids to compare models on.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig


def draw_ids(config: PreTrainedConfig, num_rows: int, num_tokens: int, seed: int, num_new_tokens: int = 0) -> torch.Tensor:
    """Return random token ids of the model's vocabulary.

    Args:
        config: the unsplit model's configuration.
        num_rows: rows (B), at least 1.
        num_tokens: tokens of each row (T), at least 2.
        seed: seeds the ids.
        num_new_tokens: positions to leave for generated tokens.

    Returns:
        Token ids of shape (B, T).

    Raises:
        ValueError: there is not at least one row of two tokens, or the model has fewer positions.
    """
    text = config.get_text_config(decoder=True)
    positions = getattr(text, "max_position_embeddings", None)
    numbers = (num_rows, num_tokens, num_new_tokens)
    are_counts = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
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
    """Return an attention mask that hides a quarter of the first row.

    Args:
        ids_BT: token ids, shape (B, T).
        side: ``"left"`` or ``"right"``; ``"no"`` hides nothing.

    Returns:
        1 for real tokens and 0 for padding, shape (B, T).
    """
    mask_BT = torch.ones_like(ids_BT)
    hidden = ids_BT.shape[1] // 4
    if hidden and side != "no":
        mask_BT[0, slice(0, hidden) if side == "left" else slice(-hidden, None)] = 0
    return mask_BT
