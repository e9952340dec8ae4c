"""The attacker's texts and those that are attacked have no document in common."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitlearn.attacks import divide_texts, token_overlap


class _Numbers:
    """A tokenizer of texts that are numbers with spaces between them."""

    def __call__(self, text: str, **settings: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}


def document(number: int, num_tokens: int) -> str:
    return " ".join(str(number * 1000 + place) for place in range(num_tokens))


def divide(documents: list[str], auxiliary: int, validation: int, test: int, seed: int = 0) -> Any:
    tokenizer: Any = _Numbers()
    return divide_texts(documents, tokenizer, auxiliary, validation, test, num_tokens=4, seed=seed)


def documents_of(pieces_NT: torch.Tensor) -> set[int]:
    return set((pieces_NT // 1000).flatten().tolist())


@pytest.mark.parametrize("seed", range(5))
def test_no_document_is_in_two_of_the_three(seed: int) -> None:
    documents = [document(number, 4 + 3 * number) for number in range(1, 21)]
    texts = divide(documents, 60, 5, 9, seed=seed)
    groups = [documents_of(pieces) for pieces in (texts.auxiliary_NT, texts.validation_NT, texts.test_NT)]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert texts.test_NT.shape == (9, 4) and texts.validation_NT.shape == (5, 4)
    # Pieces are whole runs of their documents' tokens.
    assert (texts.auxiliary_NT.diff(dim=1) == 1).all() and (texts.auxiliary_NT[:, 0] % 4 == 0).all()


def test_the_same_text_twice_is_one_document() -> None:
    documents = [document(1, 8), document(2, 8)] * 5
    with pytest.raises(ValueError, match="of 2 documents 2 have 4 tokens or more, and an attack needs 3"):
        divide(documents, 4, 1, 1)


def test_short_documents_give_no_pieces() -> None:
    documents = [document(1, 3), document(2, 9), document(3, 9), document(4, 9)]
    texts = divide(documents, 100, 1, 1)
    groups = [documents_of(pieces) for pieces in (texts.auxiliary_NT, texts.validation_NT, texts.test_NT)]
    assert set().union(*groups) == {2, 3, 4} and all(len(group) == 1 for group in groups)


def test_the_overlap_is_that_of_tokens() -> None:
    assert token_overlap(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1, 4, 5]])) == 0.5
