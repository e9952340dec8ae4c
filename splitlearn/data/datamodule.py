"""Text as a Lightning data module: packed blocks with a held-out share of the documents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from datasets.utils.logging import is_progress_bar_enabled
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from splitlearn.data.documents import read_documents
from splitlearn.data.packing import pack
from splitlearn.data.resumable import ResumableLoader


class TextDataModule(LightningDataModule):
    """Blocks of tokens for causal language modelling, training and held-out.

    Whole documents are held out, so no held-out text shares a block with training text.

    Args:
        tokenizer_name_or_path: the model's tokenizer, a local folder or a hub id.
        source: ``embedded:python_docs``, or one or several ``.jsonl`` or text files.
        text_field: the field of each jsonl row that holds the text.
        sample_by: what one document of a text file is: ``"document"``, ``"paragraph"`` or ``"line"``.
        block_size: tokens in each block.
        batch_size: blocks in each batch.
        val_fraction: share of the documents that is held out, between 0 and 1.
        max_train_blocks: use only the first so many training blocks after shuffling once; None uses all.
        max_val_blocks: likewise for the held-out blocks.
        num_workers: processes that prepare batches; 0 does it in the training process.
        seed: decides which documents are held out and the order of the blocks.
    """

    def __init__(
        self,
        tokenizer_name_or_path: str,
        source: str | Sequence[str],
        text_field: str = "text",
        sample_by: str = "paragraph",
        block_size: int = 128,
        batch_size: int = 8,
        val_fraction: float = 0.1,
        max_train_blocks: int | None = None,
        max_val_blocks: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(val_fraction, bool) or not isinstance(val_fraction, (int, float)) or not 0 < val_fraction < 1:
            raise ValueError(f"data.val_fraction is {val_fraction!r}; it must lie between 0 and 1")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"data.batch_size is {batch_size!r}; it must be a whole number of at least 1")
        for name, limit in (("max_train_blocks", max_train_blocks), ("max_val_blocks", max_val_blocks)):
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
                raise ValueError(f"data.{name} is {limit!r}; it must be a whole number of at least 1, or null for all")
        self.tokenizer_name_or_path = tokenizer_name_or_path
        self.source = source
        self.text_field = text_field
        self.sample_by = sample_by
        self.block_size = block_size
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.max_blocks = {"train": max_train_blocks, "val": max_val_blocks}
        self.num_workers = num_workers
        self.seed = seed
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.blocks: dict[str, Dataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read, tokenise and pack the text, once.

        Raises:
            FileNotFoundError: a file or the tokenizer does not exist.
            ValueError: there is too little text, or the files are not what ``source`` may name.
        """
        if self.blocks:
            return
        had_bars = is_progress_bar_enabled()
        disable_progress_bars()
        try:
            self._read()
        finally:
            if had_bars:
                enable_progress_bars()

    def _read(self) -> None:
        documents = read_documents(self.source, self.text_field, self.sample_by)
        if len(documents) < 2:
            raise ValueError("the data is a single document, so none can be held out; try data.sample_by=paragraph or line")
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_name_or_path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(f"no tokenizer in {self.tokenizer_name_or_path}: {reason}") from error
        self.tokenizer = tokenizer
        split = documents.train_test_split(test_size=self.val_fraction, seed=self.seed)
        for name, part in (("train", split["train"]), ("val", split["test"])):
            share = "the training text" if name == "train" else f"the held-out text (data.val_fraction={self.val_fraction})"
            blocks = pack(part, tokenizer, self.block_size, share)
            limit = self.max_blocks[name]
            if limit is not None:
                blocks = blocks.shuffle(seed=self.seed).select(range(min(limit, len(blocks))))
            self.blocks[name] = blocks.with_format("torch")

    def num_tokens(self, name: str) -> int:
        """Return how many tokens the blocks of ``"train"`` or ``"val"`` hold."""
        return len(self.blocks[name]) * self.block_size

    def train_dataloader(self) -> ResumableLoader:
        """Return batches of ``input_ids`` and ``labels``, each of shape (B, T), shuffled anew in each epoch."""
        return ResumableLoader(self.blocks["train"], self.batch_size, self.seed, self.num_workers)

    def val_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        """Return the held-out batches in order, of ``input_ids`` and ``labels``, each of shape (B, T)."""
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.blocks["val"], self.batch_size, num_workers=self.num_workers, generator=generator)
