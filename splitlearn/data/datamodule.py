"""What text and instructions have in common as Lightning data modules: a held-out share, packed blocks, resumable batches.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from datasets.utils.logging import is_progress_bar_enabled
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from splitlearn.data.bad_rows import Column
from splitlearn.data.examples import show_example
from splitlearn.data.packing import check_block_size, isolate, join, pad_batch
from splitlearn.data.prompt_format import PromptFormat
from splitlearn.data.reading import Source, check_values, read_rows, stream_rows
from splitlearn.data.resumable import ResumableLoader, StreamedBlocks
from splitlearn.data.tokenizer import read_tokenizer

PACKINGS = ("joined", "isolated", "none")


class BlockDataModule(LightningDataModule, ABC):
    """Blocks of tokens for causal language modelling, training and held-out.

    Whole rows of the data are held out, so no held-out text shares a block with training text.

    Args:
        tokenizer_name_or_path: the model's tokenizer, a local folder or a hub id.
        source: see `Source`.
        subset: which of a hub data set's configurations.
        split: which of a hub data set's splits.
        revision: of a hub's data set the branch, tag or commit.
        packing: ``"joined"`` (rows end to end), ``"isolated"`` (whole rows side by side that do not see each other) or
            ``"none"`` (a row for each, padded to the longest of its batch).
        block_size: tokens in each block, or that a row has at most.
        batch_size: blocks in each batch.
        val_fraction: share of the rows that is held out, between 0 and 1.
        max_train_blocks: use only the first so many training blocks after shuffling once; None uses all.
        max_val_blocks: likewise for the held-out blocks.
        num_workers: processes that prepare batches; 0 does it in the training process.
        seed: decides which rows are held out and the order of the blocks.
        streaming: read training rows while training instead of all at first; an epoch's length is then unknown.
        val_rows: when streaming, how many rows from the beginning are held out instead of ``val_fraction``.
        rows_at_once: when streaming, how many rows are shuffled and made blocks of together.
        tokenizer_revision: of a hub's repository with the tokenizer the branch, tag or commit.

    Attributes:
        tokenizer: the tokenizer, once `setup` has run.
        blocks: the blocks of ``"train"`` and ``"val"``, once `setup` has run.
        stream: the training blocks if they are streamed, once `setup` has run.
    """

    def __init__(
        self,
        tokenizer_name_or_path: str,
        source: str | Sequence[str],
        *,
        subset: str | None = None,
        split: str = "train",
        revision: str | None = None,
        sample_by: str = "paragraph",
        packing: str = "joined",
        block_size: int = 128,
        batch_size: int = 8,
        val_fraction: float = 0.1,
        max_train_blocks: int | None = None,
        max_val_blocks: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        streaming: bool = False,
        val_rows: int = 1000,
        rows_at_once: int = 1000,
        tokenizer_revision: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(val_fraction, bool) or not isinstance(val_fraction, (int, float)) or not 0 < val_fraction < 1:
            raise ValueError(f"data.val_fraction is {val_fraction!r}; it must lie between 0 and 1")
        for name, number in {"batch_size": batch_size, "val_rows": val_rows, "rows_at_once": rows_at_once}.items():
            _check_count(name, number)
        for name, limit in {"max_train_blocks": max_train_blocks, "max_val_blocks": max_val_blocks}.items():
            if limit is not None:
                _check_count(name, limit, ", or null for all")
        if packing not in PACKINGS:
            raise ValueError(f"data.packing is {packing!r}; use one of {', '.join(PACKINGS)}")
        self.tokenizer_name_or_path = tokenizer_name_or_path
        self.tokenizer_revision = tokenizer_revision
        self.source = Source(source, sample_by, subset, split, revision)
        self.packing = packing
        self.block_size = block_size
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.max_blocks = {"train": max_train_blocks, "val": max_val_blocks}
        self.num_workers = num_workers
        self.seed = seed
        self.streaming = streaming
        self.val_rows = val_rows
        self.rows_at_once = rows_at_once
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.blocks: dict[str, Dataset] = {}
        self.stream: StreamedBlocks | None = None
        self._vocab_size: int | None = None

    @property
    @abstractmethod
    def columns(self) -> list[Column]:
        """The columns that rows must have."""

    @abstractmethod
    def prepare(self, rows: Dataset) -> Dataset:
        """Return the rows that are to be used, as `tokenize` takes them."""

    @abstractmethod
    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Return rows as the columns ``input_ids`` and ``labels``."""

    def setup(self, stage: str | None = None) -> None:
        """Read, tokenise and pack the rows, once.

        Raises:
            FileNotFoundError: a file or the tokenizer does not exist.
            ValueError: there is too little text, or the rows are not what they are said to be.
        """
        if not self.blocks:
            with _without_bars():
                self._make_blocks()

    def _make_blocks(self) -> None:
        check_block_size(self.block_size)
        if self.streaming:
            stream = stream_rows(self.source, self.columns)
            held_out = self._prepare_streamed(Dataset.from_list(list(stream.take(self.val_rows))))
            self.tokenizer = read_tokenizer(self.tokenizer_name_or_path, self.tokenizer_revision)
            rest = stream.skip(self.val_rows)
            if next(iter(rest), None) is None:
                raise ValueError(
                    f"the first data.val_rows={self.val_rows} rows are held out, and {self.source} has no more; hold out fewer"
                )
            rows = rest.shuffle(seed=self.seed, buffer_size=self.rows_at_once)
            self.stream = StreamedBlocks(rows, self.rows_at_once, self._stream_blocks, self.max_blocks["train"])
            name = f"the held-out text (data.val_rows={self.val_rows})"
            self.blocks["val"] = self._limited(self._pack(held_out, name), "val")
            return
        rows = self.prepare(read_rows(self.source, self.columns))
        if len(rows) < 2:
            raise ValueError(
                f"{self.source} holds a single row, so none can be held out; give more, or divide a text with data.sample_by"
            )
        self.tokenizer = read_tokenizer(self.tokenizer_name_or_path, self.tokenizer_revision)
        split = rows.train_test_split(test_size=self.val_fraction, seed=self.seed)
        self.blocks["train"] = self._limited(self._pack(split["train"], "the training text"), "train")
        name = f"the held-out text (data.val_fraction={self.val_fraction})"
        self.blocks["val"] = self._limited(self._pack(split["test"], name), "val")

    def _stream_blocks(self, rows: Dataset) -> Dataset:
        with _without_bars():
            blocks = self._pack(self._prepare_streamed(rows), f"{self.rows_at_once} rows (data.rows_at_once)")
        self._refuse_larger_ids(_largest_id(blocks))
        return blocks

    def _prepare_streamed(self, rows: Dataset) -> Dataset:
        check_values(rows, self.columns, str(self.source))
        return self.prepare(rows)

    def _limited(self, blocks: Dataset, name: str) -> Dataset:
        limit = self.max_blocks[name]
        if limit is not None:
            blocks = blocks.shuffle(seed=self.seed).select(range(min(limit, len(blocks))))
        # Blocks of one length are numbered, so that what frozen parts make of them can be kept.
        return blocks if self.packing == "none" else blocks.add_column("row", np.arange(len(blocks))).with_format("torch")

    def _pack(self, rows: Dataset, name: str) -> Dataset:
        tokenizer = self._tokenizer
        tokenized = self.tokenize(rows, tokenizer)
        if self.packing == "none":
            return tokenized
        if self.packing == "joined":
            return join(tokenized, self.block_size, name).with_format("torch")
        return isolate(tokenized, self.block_size).with_format("torch")

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise RuntimeError("there is no data yet: call setup(), or let the Trainer do it")
        return self.tokenizer

    def num_rows(self, name: str) -> int:
        """Return how many blocks ``"train"`` or ``"val"`` has."""
        return len(self.blocks[name])

    def digest(self, name: str) -> str:
        """Return a digest of the token ids and positions of ``"train"`` or ``"val"``."""
        rows = self.blocks[name].with_format("numpy")
        found = hashlib.sha256()
        for column in ("input_ids", "position_ids"):
            if column in rows.column_names:
                for batch in rows.iter(batch_size=1000):
                    found.update(np.ascontiguousarray(batch[column]).tobytes())
        return found.hexdigest()

    @property
    def order_settings(self) -> dict[str, Any]:
        """What decides which rows a batch has, as plain values."""
        names = ("packing", "block_size", "batch_size", "val_fraction", "seed", "streaming", "val_rows", "rows_at_once")
        told = {name: getattr(self, name) for name in names}
        told |= {"source": str(self.source), "max_train_blocks": self.max_blocks["train"]}
        # Workers take turns at a stream.
        return told | ({"num_workers": self.num_workers} if self.streaming else {})

    def num_tokens(self, name: str) -> int:
        """Return how many tokens the blocks of ``"train"`` or ``"val"`` hold, padding within blocks left out."""
        blocks = self.blocks[name]
        return sum(blocks["num_tokens"]) if "num_tokens" in blocks.column_names else sum(map(len, blocks["input_ids"]))

    def largest_token_id(self) -> int:
        """Return the largest token id in the data; of data that are streamed, the largest in what is held out."""
        return max(_largest_id(rows) for rows in self.blocks.values())

    def check_token_ids(self, vocab_size: int) -> None:
        """Refuse data with token ids that a model does not have; streamed data are looked at as they come, too.

        Args:
            vocab_size: how many token ids the model has.

        Raises:
            ValueError: there is a larger one.
        """
        self._vocab_size = vocab_size
        self._refuse_larger_ids(self.largest_token_id())

    def _refuse_larger_ids(self, largest: int) -> None:
        if self._vocab_size is not None and largest >= self._vocab_size:
            raise ValueError(
                f"the data hold the token id {largest}, but the model knows only {self._vocab_size} ids; the tokenizer "
                f"{self.tokenizer_name_or_path} is of another model, or tokens were added to it that the model has not got"
            )

    @property
    def prompt_format(self) -> PromptFormat:
        """How rows were written out, once `setup` has run: documents are ended by the end-of-text token."""
        end = self._tokenizer.eos_token_id
        return PromptFormat(end_token_ids=() if end is None else (end,))

    def save_prompt_format(self, folder: Path) -> None:
        """Write into a run's folder how rows were written out, for asking the trained model in the same way."""
        self.prompt_format.write(folder)

    def sample(self, max_tokens: int = 128) -> str:
        """Return the beginning of the first training block, decoded; what is supervised stands between » and «."""
        row = next(iter(self.stream)) if self.stream is not None else self.blocks["train"][0]
        columns = {name: [int(each) for each in row[name][:max_tokens]] for name in ("input_ids", "labels")}
        return show_example(self._tokenizer, columns)

    def train_dataloader(self) -> ResumableLoader:
        """Return batches of ``input_ids`` and ``labels``, each of shape (B, T), shuffled anew in each epoch."""
        rows = self.blocks["train"] if self.stream is None else self.stream
        return ResumableLoader(rows, self.batch_size, self.seed, self.num_workers, self._collate())

    def val_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        """Return the held-out batches in order, of ``input_ids`` and ``labels``, each of shape (B, T)."""
        generator = torch.Generator().manual_seed(self.seed)
        settings: dict[str, Any] = {"num_workers": self.num_workers, "generator": generator, "collate_fn": self._collate()}
        return DataLoader(self.blocks["val"], self.batch_size, **settings)

    def _collate(self) -> Callable[[list[Any]], dict[str, torch.Tensor]] | None:
        return pad_batch if self.packing == "none" else None


def _check_count(name: str, number: Any, otherwise: str = "") -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"data.{name} is {number!r}; it must be a whole number of at least 1{otherwise}")


def _largest_id(rows: Dataset) -> int:
    return max((int(np.max(ids)) for ids in rows.with_format("numpy")["input_ids"]), default=0)


@contextmanager
def _without_bars() -> Iterator[None]:
    had_bars = is_progress_bar_enabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if had_bars:
            enable_progress_bars()
