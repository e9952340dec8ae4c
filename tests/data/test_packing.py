import pytest
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from splitlearn.data import pack
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
