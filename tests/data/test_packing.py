from itertools import chain

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from splitlearn.data import isolate, pack
from splitlearn.data.packing import chop, fit_rows, pad_batch
from splitlearn.embedded import resolve_model


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny"))


def test_no_token_is_lost_but_the_remainder(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = ["The sort() method is stable.", "It mutates the list.", "A sort does not change the order."]
    stream = [token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    blocks = pack(Dataset.from_dict({"text": texts}), tokenizer, 7)
    packed = [token for block in blocks["input_ids"] for token in block]
    assert packed == stream[: len(stream) // 7 * 7]
    assert blocks["labels"] == blocks["input_ids"]
    assert {len(block) for block in blocks["input_ids"]} == {7}


def test_an_exact_fit_keeps_its_last_block(tokenizer: PreTrainedTokenizerBase) -> None:
    count = len(tokenizer("list list list")["input_ids"]) + 1
    assert len(pack(Dataset.from_dict({"text": ["list list list"]}), tokenizer, count)) == 1


@pytest.mark.parametrize("block_size", [0, 1, -4, 2.5, True])
def test_block_sizes_that_make_no_block(tokenizer: PreTrainedTokenizerBase, block_size: int) -> None:
    with pytest.raises(ValueError, match=r"data\.block_size"):
        pack(Dataset.from_dict({"text": ["text"]}), tokenizer, block_size)


def test_too_little_text(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"too few for one block of data\.block_size=512"):
        pack(Dataset.from_dict({"text": ["text"]}), tokenizer, 512)


def rows_of(*lengths: int) -> Dataset:
    ids = [[10 * number + place for place in range(length)] for number, length in enumerate(lengths, 1)]
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def test_isolated_rows_are_whole_and_begin_at_position_0() -> None:
    blocks = isolate(rows_of(3, 6, 2, 4), block_size=7, pad_token_id=99)
    found = {tuple(row["input_ids"]): row for row in blocks}
    # Best fit: the longest row alone, since 1 is left and no row fits there.
    assert set(found) == {(20, 21, 22, 23, 24, 25, 99), (40, 41, 42, 43, 10, 11, 12), (30, 31, 99, 99, 99, 99, 99)}
    both = found[40, 41, 42, 43, 10, 11, 12]
    assert both["position_ids"] == [0, 1, 2, 3, 0, 1, 2]
    assert both["labels"] == [-100, 41, 42, 43, -100, 11, 12]
    padded = found[30, 31, 99, 99, 99, 99, 99]
    assert padded["position_ids"] == [0, 1, 0, 1, 2, 3, 4]
    assert padded["labels"] == [-100, 31, -100, -100, -100, -100, -100]


def test_isolating_loses_no_row_and_wastes_little() -> None:
    lengths = [1 + (7 * number) % 60 for number in range(500)]
    blocks = isolate(rows_of(*lengths), block_size=64, pad_token_id=0)
    starts = sum(position == 0 for row in blocks["position_ids"] for position in row)
    num_padded = sum(row["position_ids"][-1] + 1 for row in blocks if row["labels"][-1] == -100 and row["input_ids"][-1] == 0)
    assert sum(lengths) + num_padded == 64 * len(blocks)
    assert starts >= len(lengths)
    assert num_padded < 0.05 * sum(lengths)


def test_rows_too_long() -> None:
    rows = rows_of(3, 9, 4, 12)
    with pytest.raises(ValueError, match=r"2 of 4 rows are longer than data.block_size=5 .*the longest has 12"):
        fit_rows(rows, 5, "error")
    assert [len(row) for row in fit_rows(rows, 5, "cut")["labels"]] == [3, 5, 4, 5]
    assert [len(row) for row in fit_rows(rows, 5, "drop")["labels"]] == [3, 4]
    assert fit_rows(rows, 12, "error") is rows
    with pytest.raises(ValueError, match=r"data\.too_long is 'wrap'"):
        fit_rows(rows, 5, "wrap")


def test_batches_are_padded_on_the_right() -> None:
    batch = pad_batch([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_blocks_tell_how_many_of_their_tokens_are_no_padding() -> None:
    blocks = isolate(rows_of(3, 6, 2, 4), block_size=7)
    assert sum(blocks["num_tokens"]) == 15
    assert all(0 < number <= 7 for number in blocks["num_tokens"])


def test_long_rows_are_divided_and_nothing_is_lost() -> None:
    rows = rows_of(3, 12)
    pieces = chop(rows, 5)["input_ids"]
    assert [len(row) for row in pieces] == [3, 5, 5, 4]
    # Each piece repeats the last token of the one before, so that all tokens but a row's first are predicted once.
    predicted = list(chain(*(piece[1:] for piece in pieces)))
    assert predicted == list(chain(*(row[1:] for row in rows["input_ids"])))
