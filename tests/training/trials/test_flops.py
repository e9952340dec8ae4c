"""Counted operations are those of the matrix products, known from shapes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitlearn.training import SplitCausalLM
from splitlearn.training.trials.flops import count_flops
from tests.tiny_models import VOCAB_SIZE

ROWS, TOKENS, HIDDEN, INNER, LAYERS = 2, 11, 64, 96, 2
# Queries and outputs, keys and values of half as many heads, and the three matrices of the feed-forward network.
MATRICES = 2 * ROWS * TOKENS * LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN // 2 + 3 * HIDDEN * INNER)
ATTENTION = LAYERS * 2 * 2 * ROWS * TOKENS * TOKENS * HIDDEN
HEAD = 2 * ROWS * TOKENS * HIDDEN * VOCAB_SIZE


def count(folder: Path, **settings: Any) -> list[int] | None:
    module = SplitCausalLM(str(folder), 2, 4, **settings)
    module.load_parts()
    num_frozen = next(index for index, name in enumerate(module.trained) if module.trained[name] != "frozen")
    return count_flops(module.parts, num_frozen, ROWS, TOKENS)


@pytest.fixture
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("llama", tie_word_embeddings=False)


def test_a_part_that_is_frozen_and_first_runs_forward_only(checkpoint: Path) -> None:
    counts = count(checkpoint, optimizer={"parts": {"bottom": {"train": False}}})
    assert counts is not None
    # Some releases of transformers find rotary angles by a small matrix product, which is counted too.
    assert counts[0] == pytest.approx(MATRICES + ATTENTION, rel=1e-4)


def test_a_frozen_part_in_between_hands_gradients_down(checkpoint: Path) -> None:
    trained = count(checkpoint)
    frozen = count(checkpoint, optimizer={"parts": {"trunk": {"train": False}}})
    assert trained is not None and frozen is not None
    assert trained[1] - frozen[1] == MATRICES, "as many as it takes to find the gradients of the weights"
    assert trained[0] == frozen[0] == trained[1], "the embedding is looked up, not multiplied"
    assert trained[2] == trained[1] + 3 * HEAD


def test_it_leaves_no_gradients_and_changes_no_module(checkpoint: Path) -> None:
    module = SplitCausalLM(str(checkpoint), 2, 4)
    module.load_parts()
    before = {name: id(parameter) for name, parameter in module.named_parameters()}
    assert count_flops(module.parts, 0, ROWS, TOKENS) is not None
    assert before == {name: id(parameter) for name, parameter in module.named_parameters()}
    assert all(parameter.grad is None for parameter in module.parameters())
