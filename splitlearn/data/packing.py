"""Packing documents end to end into blocks of one length, so that no position is padding."""

from __future__ import annotations

from itertools import chain
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase


def pack(documents: Dataset, tokenizer: PreTrainedTokenizerBase, block_size: int, name: str = "the text") -> Dataset:
    """Tokenise documents, end each with the end-of-text token, join them and cut the result into blocks.

    The remainder of fewer than ``block_size`` tokens at the end is left out. Every token is supervised.

    Args:
        documents: a data set with the column ``text``.
        tokenizer: the model's tokenizer.
        block_size: tokens in each block.
        name: what to call the documents in messages.

    Returns:
        A data set with the columns ``input_ids`` and ``labels``, each row ``block_size`` long.

    Raises:
        ValueError: ``block_size`` is not at least 2, the tokenizer has no end-of-text token, or the text fills no block.
    """
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 2:
        raise ValueError(f"data.block_size is {block_size!r}; it must be a whole number of at least 2 tokens")
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-text token to put between documents")

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        # The length warning is about feeding whole documents to the model, which packing never does.
        ids = tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"]
        return {"input_ids": [[*document, tokenizer.eos_token_id] for document in ids]}

    tokenized = documents.map(tokenize, batched=True, remove_columns=documents.column_names)
    tokens = list(chain.from_iterable(tokenized["input_ids"]))
    blocks = [tokens[start : start + block_size] for start in range(0, len(tokens) - block_size + 1, block_size)]
    if not blocks:
        raise ValueError(
            f"{name} has {len(tokens)} tokens, too few for one block of data.block_size={block_size}; "
            "choose a smaller block or give more text"
        )
    return Dataset.from_dict({"input_ids": blocks, "labels": blocks})
