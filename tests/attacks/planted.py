"""Views with planted truths, on tiny models whose text is random tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from splitlearn.attacks import BACKWARD, AttackerView, Pieces, PublicModel, collect
from splitlearn.model import ComposedCausalLM
from splitlearn.training import SplitCausalLM
from tests.tiny_models import VOCAB_SIZE, token_ids


def view_of(
    model: ComposedCausalLM, test: Pieces, cut: int = 2, direction: str = BACKWARD, public: ComposedCausalLM | None = None
) -> AttackerView:
    """Return a view of some pieces, with auxiliary texts of the same kind and all weights public."""
    own = token_ids(16, test.ids_NT.shape[1], seed=77)
    pieces = Pieces(own, torch.zeros(*own.shape, 1))
    embedding: Any = model.bottom.model.get_input_embeddings()
    embedding_VD = embedding.weight.detach()
    weights = PublicModel(embedding_VD, *(public or model).parts)
    return AttackerView(cut, direction, pieces, pieces, test, VOCAB_SIZE, weights)


def gradients_of(model: ComposedCausalLM, rows: int = 3, tokens: int = 12, **settings: Any) -> Pieces:
    """Return pieces with the gradients that cross cut 2."""
    return collect(model, token_ids(rows, tokens), 2, BACKWARD, **settings)


def composed_model(checkpoint: Path, point_1: int, point_2: int) -> ComposedCausalLM:
    """Load a tiny model, all of it trained, cut at two points."""
    module = SplitCausalLM(str(checkpoint), point_1, point_2)
    module.load_parts()
    return module.composed
