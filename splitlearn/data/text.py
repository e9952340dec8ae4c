"""Plain text as a Lightning data module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from splitlearn.data.datamodule import BlockDataModule
from splitlearn.data.documents import document_layout
from splitlearn.data.packing import chop, tokenize_documents
from splitlearn.data.reading import Layout


class TextDataModule(BlockDataModule):
    """Documents, each ended by the end-of-text token, all of whose tokens are supervised.

    A document longer than a block goes on in the next.

    Args:
        tokenizer_name_or_path: the model's tokenizer, a local folder or a hub id.
        source: see `Source`.
        text_field: the column that holds the text.
        **settings: what every `BlockDataModule` takes.
    """

    def __init__(
        self, tokenizer_name_or_path: str, source: str | Sequence[str], text_field: str = "text", **settings: Any
    ) -> None:
        super().__init__(tokenizer_name_or_path, source, **settings)
        self.text_field = text_field

    def choose_layout(self, columns: Sequence[str], source: str) -> Layout:
        """Return how documents are read."""
        return document_layout(self.text_field)

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Return documents as the columns ``input_ids`` and ``labels``."""
        tokenized = tokenize_documents(rows, tokenizer)
        return tokenized if self.packing == "joined" else chop(tokenized, self.block_size)
