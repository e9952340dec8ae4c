"""Plain text as a Lightning data module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from splitlearn.data.bad_rows import Column
from splitlearn.data.datamodule import BlockDataModule
from splitlearn.data.documents import documents_of
from splitlearn.data.packing import chop, tokenize_documents


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

    @property
    def columns(self) -> list[Column]:
        """The column of text."""
        return [Column(self.text_field, "text_field")]

    def prepare(self, rows: Dataset) -> Dataset:
        """Return the documents that are not empty, as the column ``text``."""
        return documents_of(rows, self.text_field, str(self.source))

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Return documents as the columns ``input_ids`` and ``labels``."""
        tokenized = tokenize_documents(rows, tokenizer)
        return tokenized if self.packing == "joined" else chop(tokenized, self.block_size)
