"""Making blocks of tokenised rows: joined end to end, or side by side without seeing each other.

Shapes: N blocks, T tokens.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from splitlearn.data.examples import IGNORED_LABEL, encode, mark_document

TOO_LONG = ("error", "cut", "drop")
TOKENS = List(Value("int64"))


class TooLittleError(ValueError):
    """Rows make no block: all are too long for one, or together they do not fill one."""


def check_block_size(block_size: int) -> None:
    """Refuse a length that blocks cannot have.

    Raises:
        ValueError: it is not a whole number of at least 2.
    """
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 2:
        raise ValueError(f"data.block_size is {block_size!r}; it must be a whole number of at least 2 tokens")


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
    return join(tokenize_documents(documents, tokenizer), block_size, name)


def tokenize_documents(documents: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Return documents, a data set with the column ``text``, as the columns ``input_ids`` and ``labels``."""
    return documents.map(
        lambda text: encode(tokenizer, mark_document(text)),
        input_columns="text",
        remove_columns=documents.column_names,
        features=Features(input_ids=TOKENS, labels=TOKENS),
    )


def join(rows: Dataset, block_size: int, name: str = "the text") -> Dataset:
    """Join rows end to end and cut the result into blocks; what is left at the end and fills no block is left out.

    Tokens may attend to the rows before theirs in a block.

    Args:
        rows: a data set with the columns ``input_ids`` and ``labels``.
        block_size: tokens in each block.
        name: what to call the rows in messages.

    Raises:
        ValueError: ``block_size`` is not at least 2.
        TooLittleError: the rows fill no block.
    """
    check_block_size(block_size)
    columns = {}
    for column in ("input_ids", "labels"):
        tokens = np.concatenate(rows.with_format("numpy")[column][:])
        num_blocks = len(tokens) // block_size
        if num_blocks == 0:
            raise TooLittleError(
                f"{name} has {len(tokens)} tokens, too few for one block of data.block_size={block_size}; "
                "choose a smaller block or give more text"
            )
        columns[column] = tokens[: num_blocks * block_size].reshape(num_blocks, block_size)
    return Dataset.from_dict(columns, features=Features(**dict.fromkeys(columns, TOKENS)))


def isolate(rows: Dataset, block_size: int, pad_token_id: int = 0) -> Dataset:
    """Put whole rows side by side into blocks, so that none sees another and hardly any position is padding.

    Positions begin at 0 with each row, by which transformers' attention masks tell rows apart. Rows go, longest first, where
    the least room is left over; the rest of a block is padding, which is not supervised.

    Args:
        rows: a data set with the columns ``input_ids`` and ``labels``, no row longer than ``block_size``.
        block_size: tokens in each block.
        pad_token_id: what to fill up with. It is isolated from all rows and not supervised, so any id of the model will do.

    Returns:
        A data set with the columns ``input_ids``, ``labels`` and ``position_ids``, each row ``block_size`` long, and
        ``num_tokens``, how many of a block's tokens are not padding.
    """
    check_block_size(block_size)
    all_ids, all_labels = rows["input_ids"][:], rows["labels"][:]
    groups = _group([len(ids) for ids in all_ids], block_size)
    shape_NT = (len(groups), block_size)
    ids_NT = np.full(shape_NT, pad_token_id, dtype=np.int64)
    labels_NT = np.full(shape_NT, IGNORED_LABEL, dtype=np.int64)
    positions_NT = np.zeros(shape_NT, dtype=np.int64)
    num_tokens_N = np.zeros(len(groups), dtype=np.int64)
    for number, group in enumerate(groups):
        start = 0
        for row in group:
            end = start + len(all_ids[row])
            ids_NT[number, start:end] = all_ids[row]
            # Nothing before a row's first token may predict it.
            labels_NT[number, start:end] = [IGNORED_LABEL, *all_labels[row][1:]]
            positions_NT[number, start:end] = np.arange(end - start)
            start = end
        positions_NT[number, start:] = np.arange(block_size - start)
        num_tokens_N[number] = start
    columns = {"input_ids": ids_NT, "labels": labels_NT, "position_ids": positions_NT}
    features = Features(**dict.fromkeys(columns, TOKENS), num_tokens=Value("int64"))
    return Dataset.from_dict({**columns, "num_tokens": num_tokens_N}, features=features)


def _group(lengths: Sequence[int], block_size: int) -> list[list[int]]:
    """Return groups of rows that fit a block each: best fit, decreasing."""
    groups: list[list[int]] = []
    with_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        place = bisect_left(rooms, lengths[row])
        if place == len(rooms):
            room, group = block_size, len(groups)
            groups.append([])
        else:
            room = rooms[place]
            group = with_room[room].pop()
            if not with_room[room]:
                del rooms[place]
        groups[group].append(row)
        left = room - lengths[row]
        if left > 1:
            if not with_room[left]:
                insort(rooms, left)
            with_room[left].append(group)
    return groups


def fit_rows(rows: Dataset, block_size: int, too_long: str) -> Dataset:
    """Make no row longer than ``block_size``.

    Args:
        rows: a data set with the columns ``input_ids`` and ``labels``.
        block_size: tokens that a row may have.
        too_long: what becomes of a longer row: ``"error"``, ``"cut"`` (its end is lost) or ``"drop"``.

    Raises:
        ValueError: a row is longer and ``too_long`` is ``"error"``, or is none of the three.
    """
    check_block_size(block_size)
    if too_long not in TOO_LONG:
        raise ValueError(f"data.too_long is {too_long!r}; use one of {', '.join(TOO_LONG)}")
    lengths = [len(ids) for ids in rows["input_ids"]]
    longer = [row for row, length in enumerate(lengths) if length > block_size]
    if not longer:
        return rows
    if too_long == "error":
        raise ValueError(
            f"{len(longer)} of {len(rows)} rows are longer than data.block_size={block_size} tokens (the longest has "
            f"{max(lengths)}); choose a larger block, or data.too_long=cut or drop"
        )
    if too_long == "drop":
        return rows.select([row for row, length in enumerate(lengths) if length <= block_size])
    return rows.map(lambda row: {name: row[name][:block_size] for name in ("input_ids", "labels")})


def chop(rows: Dataset, block_size: int) -> Dataset:
    """Divide rows longer than ``block_size`` into several.

    A piece begins with the last token of the one before. A row's first token is never predicted, so without it the first token
    of each piece would not be learned, nor the end of a document that is as long as a block.
    """
    check_block_size(block_size)
    step = block_size - 1

    def divide(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        return {
            name: [row[start : start + block_size] for row in column for start in range(0, max(len(row) - 1, 1), step)]
            for name, column in batch.items()
        }

    return rows.map(divide, batched=True)


def pad_batch(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, torch.Tensor]:
    """Return rows of several lengths as one batch, padded on the right to the longest.

    Padding is neither attended to nor supervised, so id 0 will do, which every model has.

    Args:
        rows: each with ``input_ids`` and ``labels``.

    Returns:
        ``input_ids``, ``labels`` and ``attention_mask``, each of shape (B, T).
    """
    filling = {"input_ids": 0, "labels": IGNORED_LABEL, "attention_mask": 0}
    columns: dict[str, list[torch.Tensor]] = {
        name: [torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels")
    }
    columns["attention_mask"] = [torch.ones_like(ids_T) for ids_T in columns["input_ids"]]
    return {name: pad_sequence(column, batch_first=True, padding_value=filling[name]) for name, column in columns.items()}
