"""Views of tiny models for tests of attacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from splitlearn.attacks import FORWARD, AttackerView, PublicModel, collect
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from tests.tiny_models import VOCAB_SIZE

NUM_TOKENS = 12


def compose(checkpoint: Path, cut: tuple[int, int] = (2, 4)) -> ComposedCausalLM:
    """Return a tiny model cut in three; none of its parameters are frozen."""
    trained = ["bottom", "trunk", "top"]
    return ComposedCausalLM(*ModelFactory.create_split_models(None, checkpoint, *cut, low_memory=True, trained=trained))


def make_clear(model: ComposedCausalLM) -> ComposedCausalLM:
    """Make a model's embeddings larger than what its layers add to them, as in trained models, and return it."""
    with torch.no_grad():
        next(model.bottom.parameters()).mul_(8)
    return model


def draw_pieces(count: int, seed: int, num_tokens: int = NUM_TOKENS) -> torch.Tensor:
    """Return pieces whose tokens are as unevenly frequent as those of text, shape (count, tokens)."""
    frequencies = 1 / torch.arange(1, VOCAB_SIZE - 2)
    drawn = torch.multinomial(frequencies, count * num_tokens, replacement=True, generator=torch.Generator().manual_seed(seed))
    return 3 + drawn.view(count, num_tokens)


def decode(ids: Sequence[int]) -> str:
    """Return token ids as words."""
    return " ".join(f"word{number}" for number in ids)


def make_view(
    model: ComposedCausalLM,
    cut: int = 1,
    direction: str = FORWARD,
    num_auxiliary: int = 64,
    is_public: bool = True,
    num_test: int = 8,
) -> AttackerView:
    """Return what an attacker sees of a model that runs on pieces of random text."""
    auxiliary, validation, test = (
        collect(model, draw_pieces(count, seed), cut, direction, seed=seed)
        for seed, count in enumerate((num_auxiliary, 8, num_test))
    )
    public = PublicModel.of(model) if is_public else None
    return AttackerView(cut, direction, auxiliary, validation, test, VOCAB_SIZE, public, decode)
