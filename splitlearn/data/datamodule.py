"""What text and instructions have in common as Lightning data modules: a held-out share, packed blocks, resumable batches.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars, enable_progress_bars
from datasets.utils.logging import is_progress_bar_enabled
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from splitlearn.data.clients_loader import ClientsLoader
from splitlearn.data.examples import show_example
from splitlearn.data.packing import TooLittleError, check_block_size, isolate, join, pad_batch
from splitlearn.data.partition import parse_partition
from splitlearn.data.prompt_format import PromptFormat
from splitlearn.data.reading import Layout, SourceRows, rows_folder
from splitlearn.data.resumable import ResumableLoader, StreamedBlocks
from splitlearn.data.scratch import ScratchFolder
from splitlearn.data.sources import Source
from splitlearn.data.tokenizer import read_tokenizer, tokenizer_digest
from splitlearn.data.workers import name_temporary_folders

PACKINGS = ("joined", "isolated", "none")
_NO_DATA = "there is no data yet: call setup(), or let the Trainer do it"


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
        val_fraction: share of the rows that is held out, between 0 and 1; 0 holds out nothing.
        val_source: held-out rows from elsewhere, read as those of ``source``, of which all are then trained on.
        max_train_rows: tokenise only so many training rows, drawn by the seed; when streaming, the first. None takes all.
        max_val_rows: likewise for the held-out rows.
        max_train_blocks: use only the first so many training blocks after shuffling once; None uses all.
        max_val_blocks: likewise for the held-out blocks.
        num_workers: processes that prepare batches; 0 does it in the training process.
        seed: decides which rows are held out and the order of the blocks.
        streaming: read training rows while training instead of all at first; an epoch's length is then unknown.
        val_rows: when streaming, how many rows from the beginning are held out instead of ``val_fraction``; 0 for none.
        rows_at_once: when streaming, how many rows are shuffled and made blocks of together.
        tokenizer_revision: of a hub's repository with the tokenizer the branch, tag or commit.
        partition: how training rows are divided among clients, see `Partition`; None does not divide them. What is held out is
            the same for all.
        num_shares: among how many clients.
        share: whose rows these data are, from 1; None keeps the rows of all, each client's in blocks of their own.
        concentration: see `Partition`.

    Attributes:
        tokenizer: the tokenizer, once `setup` has run.
        blocks: the blocks of ``"train"`` and ``"val"``, once `setup` has run; nothing held out is no ``"val"``.
        shares: the training blocks of each client if they are those of all, once `setup` has run.
        batches_per_turn: how many batches of a client then come one after another; whoever accumulates gradients sets it.
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
        val_source: str | Sequence[str] | None = None,
        max_train_rows: int | None = None,
        max_val_rows: int | None = None,
        max_train_blocks: int | None = None,
        max_val_blocks: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        streaming: bool = False,
        val_rows: int = 1000,
        rows_at_once: int = 1000,
        tokenizer_revision: str | None = None,
        partition: str | None = None,
        num_shares: int | None = None,
        share: int | None = None,
        concentration: float = 0.5,
    ) -> None:
        super().__init__()
        if isinstance(val_fraction, bool) or not isinstance(val_fraction, (int, float)) or not 0 <= val_fraction < 1:
            raise ValueError(f"data.val_fraction is {val_fraction!r}; it must lie between 0 and 1, or be 0 to hold out nothing")
        for name, number in {"batch_size": batch_size, "rows_at_once": rows_at_once}.items():
            _check_count(name, number)
        if val_rows != 0 or isinstance(val_rows, bool):
            _check_count("val_rows", val_rows, ", or 0 to hold out nothing")
        self.max_blocks = {"train": max_train_blocks, "val": max_val_blocks}
        self.max_rows = {"train": max_train_rows, "val": max_val_rows}
        for unit, limits in {"blocks": self.max_blocks, "rows": self.max_rows}.items():
            for name, limit in limits.items():
                if limit is not None:
                    _check_count(f"max_{name}_{unit}", limit, ", or null for all")
        if packing not in PACKINGS:
            raise ValueError(f"data.packing is {packing!r}; use one of {', '.join(PACKINGS)}")
        self.partition = parse_partition(partition, num_shares, share, concentration=concentration)
        if self.partition is not None and streaming:
            raise ValueError(f"data.partition is {partition!r}, which needs all rows; leave it null with data.streaming")
        self.share = share
        self.shares: list[Dataset] = []
        self.batches_per_turn = 1
        self.tokenizer_name_or_path = tokenizer_name_or_path
        self.tokenizer_revision = tokenizer_revision
        self.source = Source(source, sample_by, subset, split, revision)
        self.packing = packing
        self.block_size = block_size
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.val_source = val_source
        self.num_workers = num_workers
        self.seed = seed
        self.streaming = streaming
        self.val_rows = val_rows
        self.rows_at_once = rows_at_once
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.blocks: dict[str, Dataset] = {}
        self.stream: StreamedBlocks | None = None
        self._scratch: list[ScratchFolder] = []
        self._vocab_size: int | None = None
        # Rows that the last call of `tokenize` left out, by reason.
        self.left_out: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._rows: SourceRows | None = None
        self._stream_range: tuple[int, int | None] = (0, None)
        self._content = ""

    @abstractmethod
    def choose_layout(self, columns: Sequence[str], source: str) -> Layout:
        """Return how rows are read.

        Args:
            columns: the names of the rows' columns.
            source: what to call the rows in messages.

        Raises:
            ValueError: these columns cannot be used.
        """

    @abstractmethod
    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Return rows as the columns ``input_ids`` and ``labels``; what is left out is counted in ``left_out``."""

    def setup(self, stage: str | None = None) -> None:
        """Read, tokenise and pack the rows, once.

        Raises:
            FileNotFoundError: a file or the tokenizer does not exist.
            ValueError: there is too little text, or the rows are not what they are said to be.
        """
        if not self.blocks and self.stream is None:
            with _without_bars():
                self._make_blocks()
            for blocks in self.blocks.values():
                # They are mapped from these folders, and may outlive the data module.
                vars(blocks)["_scratch"] = self._scratch

    def _make_blocks(self) -> None:
        check_block_size(self.block_size)
        self._rows = SourceRows(self.source, self._choose_layout, streaming=self.streaming)
        if self.streaming:
            self._make_stream(self._rows)
            return
        rows = self._read(self._rows)
        self._count_rows(self._rows, "rows")
        self.tokenizer = read_tokenizer(self.tokenizer_name_or_path, self.tokenizer_revision)
        train, held_out = self._divide(rows)
        self.blocks["train"] = self._pack_shares(train)
        if held_out is not None:
            self.blocks["val"] = self._limited(self._pack(held_out, "val", self._held_out_name), "val")
        self._content = self._digest("train", ("input_ids", "labels", "position_ids"))

    def _choose_layout(self, columns: Sequence[str], source: str) -> Layout:
        layout = self.choose_layout(columns, source)
        return layout if self.partition is None else self.partition.read_field(layout, columns, source)

    def _pack_shares(self, rows: Dataset) -> Dataset:
        """Return the training blocks: of all rows, or of those of one client or of all, which never share a block."""
        if self.partition is None:
            return self._limited(self._pack(rows, "train", "the training text"), "train")
        shares = dict(enumerate(self.partition.divide(rows, self.seed), 1))
        if self.share is not None:
            shares = {self.share: shares[self.share]}
        num_rows = 0
        for number, share in shares.items():
            name = f"the training text of client {number} of {self.partition.num_shares}"
            self.shares.append(self._limited(self._pack(share, "train", name), "train"))
            num_rows += self._counts["train_rows"]
        self._counts["train_rows"] = num_rows
        if len(self.shares) == 1:
            return self.shares.pop()
        return concatenate_datasets(self.shares).with_format(self.shares[0].format["type"])

    def _divide(self, rows: Dataset) -> tuple[Dataset, Dataset | None]:
        """Return the rows to train on and those to hold out, None for none, each at most as many as are wanted."""
        if self.val_source is not None:
            return self._limited_rows(rows, "train"), self._limited_rows(self._read_held_out(self.val_source), "val")
        if self.val_fraction == 0:
            return self._limited_rows(rows, "train"), None
        if len(rows) < 2:
            raise ValueError(
                f"{self.source} holds a single row, so none can be held out; give more, divide a text with data.sample_by, "
                "name rows with data.val_source, or hold out none with data.val_fraction=0"
            )
        split = rows.train_test_split(test_size=self.val_fraction, seed=self.seed)
        return self._limited_rows(split["train"], "train"), self._limited_rows(split["test"], "val")

    def _read_held_out(self, name: str | Sequence[str]) -> Dataset:
        # In the same format as the training rows.
        rows = SourceRows(replace(self.source, name=name, setting="val_source"), self._same_layout)
        read = self._read(rows)
        self._count_rows(rows, "val_source_rows")
        return read

    def _read(self, rows: SourceRows) -> Dataset:
        self._scratch.append(ScratchFolder(rows_folder()))
        return rows.read(self._scratch[-1].path)

    def _same_layout(self, columns: Sequence[str], source: str) -> Layout:
        layout = self._source_rows.layout
        # What is held out is not divided.
        return layout if self.partition is None else self.choose_layout(list(self._source_rows.columns), source)

    def _make_stream(self, rows: SourceRows) -> None:
        # Files are looked through before training, so that it does not end at a bad row of theirs.
        content = rows.digest()
        if rows.is_local:
            self._count_rows(rows, "rows")
        self.tokenizer = read_tokenizer(self.tokenizer_name_or_path, self.tokenizer_revision)
        num_held_out = 0 if self.val_source is not None else self.val_rows
        if self.val_source is not None:
            held_out = self._limited_rows(self._read_held_out(self.val_source), "val")
        elif num_held_out:
            limit = min(num_held_out, self.max_rows["val"] or num_held_out)
            held_out = Dataset.from_list(list(islice(rows, limit)))
        if next(islice(rows, num_held_out, None), None) is None:
            raise ValueError(
                f"the first data.val_rows={self.val_rows} rows are held out, and {self.source} has no more; hold out fewer"
            )
        if self.val_source is not None or num_held_out:
            self.blocks["val"] = self._limited(self._pack(held_out, "val", self._held_out_name), "val")
        most = self.max_rows["train"]
        self._stream_range = (num_held_out, None if most is None else num_held_out + most)
        self.stream = StreamedBlocks(
            self._train_rows, self.rows_at_once, self._stream_blocks, self.seed, self.max_blocks["train"]
        )
        if next(iter(self.stream), None) is None:
            raise ValueError(
                f"nowhere do data.rows_at_once={self.rows_at_once} rows of {self.source} fill a block of "
                f"data.block_size={self.block_size} tokens; read more rows at once, or choose another size"
            )
        self._content = hashlib.sha256(f"{content} {tokenizer_digest(self.tokenizer)}".encode()).hexdigest()

    def _train_rows(self) -> Iterator[dict[str, Any]]:
        return islice(self._source_rows, *self._stream_range)

    def _stream_blocks(self, rows: Dataset) -> Dataset | list[Any]:
        try:
            with _without_bars():
                blocks = self._pack(rows, "train", f"{self.rows_at_once} rows (data.rows_at_once)")
        except TooLittleError:
            # The last rows seldom fill a block. That there is one at all was seen before training.
            return []
        self._refuse_larger_ids(_largest_id(blocks))
        return blocks

    def _limited_rows(self, rows: Dataset, name: str) -> Dataset:
        limit = self.max_rows[name]
        return rows if limit is None or limit >= len(rows) else rows.shuffle(seed=self.seed).select(range(limit))

    def _limited(self, blocks: Dataset, name: str) -> Dataset:
        limit = self.max_blocks[name]
        if limit is not None:
            blocks = blocks.shuffle(seed=self.seed).select(range(min(limit, len(blocks))))
        # Blocks of one length are numbered, so that what frozen parts make of them can be kept.
        return blocks if self.packing == "none" else blocks.add_column("row", np.arange(len(blocks))).with_format("torch")

    def _pack(self, rows: Dataset, which: str, name: str) -> Dataset:
        tokenizer = self._tokenizer
        self.left_out.clear()
        try:
            tokenized = self.tokenize(rows, tokenizer)
        except TooLittleError as error:
            raise TooLittleError(f"{name}: {error}") from error
        finally:
            for reason, number in self.left_out.items():
                self._counts[f"{which}_rows_{reason}"] += number
        if not self.streaming or which == "val":
            self._counts[f"{which}_rows"] = len(tokenized)
        if self.packing == "none":
            return tokenized
        if self.packing == "joined":
            return join(tokenized, self.block_size, name).with_format("torch")
        return isolate(tokenized, self.block_size).with_format("torch")

    @property
    def _held_out_name(self) -> str:
        names = ("val_source",) if self.val_source is not None else ("val_rows",) if self.streaming else ("val_fraction",)
        return f"the held-out text (data.{names[0]}={getattr(self, names[0])})"

    def _count_rows(self, rows: SourceRows, name: str) -> None:
        self._counts[name] = rows.num_rows
        if rows.num_empty:
            self._counts[f"{name}_empty"] = rows.num_empty
        self._counts.update(rows.layout.notes)

    @property
    def _source_rows(self) -> SourceRows:
        if self._rows is None:
            raise RuntimeError(_NO_DATA)
        return self._rows

    @property
    def counts(self) -> Counter[str]:
        """How many rows were read, are used, and were left out, by reason; of streamed rows over all passes until now."""
        return Counter(self._counts)

    def describe(self) -> str:
        """Return in a few lines what was read: the format, columns that are not used, and how many rows were left out."""
        rows = self._source_rows
        columns = [name for name in rows.layout.wanted if name in rows.columns]
        lines = [f"read {rows.source} as {rows.layout.name} ({', '.join(columns)})"]
        if rows.unused_columns:
            lines.append(f"columns that are not used: {', '.join(rows.unused_columns)}")
        told = [f"{name.replace('_', ' ')}: {number}" for name, number in self._counts.items()]
        return "\n".join([*lines, *([", ".join(told)] if told else [])])

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise RuntimeError(_NO_DATA)
        return self.tokenizer

    def num_rows(self, name: str) -> int:
        """Return how many blocks ``"train"`` or ``"val"`` has."""
        return len(self.blocks[name])

    def digest(self, name: str) -> str:
        """Return a digest of the token ids and positions of ``"train"`` or ``"val"``."""
        return self._digest(name, ("input_ids", "position_ids"))

    def _digest(self, name: str, columns: Sequence[str]) -> str:
        rows = self.blocks[name].with_format("arrow")
        digest = hashlib.sha256()
        for batch in rows.iter(batch_size=1000):
            for column in columns:
                if column in rows.column_names:
                    for chunk in batch[column].chunks:
                        digest.update(chunk.value_lengths().to_numpy().tobytes())
                        digest.update(chunk.flatten().to_numpy().tobytes())
        return digest.hexdigest()

    @property
    def order_settings(self) -> dict[str, Any]:
        """What decides which rows a batch has, as plain values; ``content`` is a digest of the rows themselves."""
        names = ("packing", "block_size", "batch_size", "val_fraction", "seed", "streaming", "val_rows", "rows_at_once")
        told = {name: getattr(self, name) for name in names}
        told |= {
            f"max_train_{unit}": limits["train"] for unit, limits in (("blocks", self.max_blocks), ("rows", self.max_rows))
        }
        # Workers take turns at a stream.
        told |= {"num_workers": self.num_workers} if self.streaming else {}
        return told | {"source": str(self.source), "content": self._content}

    def num_tokens(self, name: str) -> int:
        """Return how many tokens the blocks of ``"train"`` or ``"val"`` hold, padding within blocks left out."""
        blocks = self.blocks[name]
        return sum(blocks["num_tokens"]) if "num_tokens" in blocks.column_names else sum(map(len, blocks["input_ids"]))

    def largest_token_id(self) -> int:
        """Return the largest token id in the data; of data that are streamed, the largest in what is held out."""
        return max((_largest_id(rows) for rows in self.blocks.values()), default=0)

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
        """Return the beginning of the first training block without padding; what is supervised stands between » and «."""
        row = next(iter(self.stream)) if self.stream is not None else self.blocks["train"][0]
        # Padding fills a block's end.
        end = min(max_tokens, int(row["num_tokens"])) if "num_tokens" in row else max_tokens
        columns = {name: [int(each) for each in row[name][:end]] for name in ("input_ids", "labels")}
        return show_example(self._tokenizer, columns)

    def train_dataloader(self) -> ResumableLoader | ClientsLoader:
        """Return batches of ``input_ids`` and ``labels``, each of shape (B, T), shuffled anew in each epoch.

        If the data are those of several clients, batches come client by client, ``batches_per_turn`` of each.
        """
        if self.num_workers:
            name_temporary_folders()
        if self.shares:
            return ClientsLoader([self._loader(share) for share in self.shares], self.batches_per_turn)
        return self._loader(self.blocks["train"] if self.stream is None else self.stream)

    def _loader(self, rows: Any) -> ResumableLoader:
        return ResumableLoader(rows, self.batch_size, self.seed, self.num_workers, self._collate())

    @property
    def has_held_out(self) -> bool:
        """Whether rows are held out, once `setup` has run."""
        return "val" in self.blocks

    def val_dataloader(self) -> DataLoader[dict[str, torch.Tensor]] | list[Any]:
        """Return the held-out batches in order, of ``input_ids`` and ``labels``, each of shape (B, T); none if none are."""
        if not self.has_held_out:
            return []
        if self.num_workers:
            name_temporary_folders()
        generator = torch.Generator().manual_seed(self.seed)
        settings: dict[str, Any] = {"num_workers": self.num_workers, "generator": generator, "collate_fn": self._collate()}
        # torch takes anything with a length and numbered rows, but its types want a subclass of its own Dataset.
        rows: Any = self.blocks["val"]
        return DataLoader(rows, self.batch_size, **settings)

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
