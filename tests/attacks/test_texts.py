"""The attacker's texts and those that are attacked have no document in common."""

from __future__ import annotations

import pytest
import torch

from splitlearn.attacks import divide_texts, token_overlap


def document(number: int, num_tokens: int) -> list[int]:
    return [number * 1000 + place for place in range(num_tokens)]


def documents_of(pieces_NT: torch.Tensor) -> set[int]:
    return set((pieces_NT // 1000).flatten().tolist())


@pytest.mark.parametrize("seed", range(5))
def test_no_document_is_in_two_of_the_three(seed: int) -> None:
    own = [document(number, 4 + 3 * number) for number in range(1, 16)]
    attacked = [document(number, 9) for number in range(16, 21)]
    # Copies of its own documents and of those that are attacked do not count.
    texts = divide_texts([*own, *own, *attacked], attacked, 60, 5, 9, num_tokens=4, seed=seed)
    groups = [documents_of(pieces) for pieces in (texts.auxiliary_NT, texts.validation_NT, texts.test_NT)]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert texts.test_NT.shape == (9, 4) and texts.validation_NT.shape == (5, 4)
    assert groups[2] <= set(range(16, 21))
    # Pieces are whole runs of the joined documents' tokens, and none is there twice.
    assert (texts.auxiliary_NT.diff(dim=1) >= 1).float().mean() > 0.8
    assert len(texts.auxiliary_NT.unique(dim=0)) == len(texts.auxiliary_NT)


def test_the_seed_decides() -> None:
    own, attacked = [document(number, 30) for number in range(9)], [document(number, 30) for number in range(9, 12)]
    one, again, other = (divide_texts(own, attacked, 9, 3, 3, 4, seed).auxiliary_NT.tolist() for seed in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize(
    ("own", "attacked", "sentence"),
    [
        ([9, 9, 9], [3], "the held-out text has 3 tokens, too few for one piece of num_tokens=4"),
        ([9], [9], "the attacker's text for validation has 0 tokens"),
        ([], [9], "the attacker's own text has 0 tokens"),
    ],
)
def test_too_little_text_is_one_sentence(own: list[int], attacked: list[int], sentence: str) -> None:
    owns = [document(number, length) for number, length in enumerate(own)]
    tests = [document(10 + number, length) for number, length in enumerate(attacked)]
    with pytest.raises(ValueError, match=sentence):
        divide_texts(owns, tests, 4, 1, 1, num_tokens=4)


def test_the_overlap_is_that_of_tokens() -> None:
    assert token_overlap(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1, 4, 5]])) == 0.5
    assert token_overlap(torch.tensor([[1, 2, 3]]), torch.tensor([])) == 0.0
