from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from splitlearn.attacks import FORWARD, AttackResult, Budget, Pieces
from splitlearn.attacks.bag_of_tokens import BagOfTokens, collect_embedding_gradients
from splitlearn.model import ComposedCausalLM
from tests.attacks.planted import composed_model, view_of
from tests.tiny_models import token_ids

Tiny = Callable[..., Path]
IDS = token_ids(8, 12)


def find(model: ComposedCausalLM, pieces_per_batch: int) -> AttackResult:
    view = view_of(model, Pieces(IDS, torch.zeros(*IDS.shape, 1)), cut=1, direction=FORWARD)
    attack = BagOfTokens(collect_embedding_gradients(model, IDS, pieces_per_batch))
    return attack.run(view, Budget(), torch.Generator())


@pytest.mark.parametrize("pieces_per_batch", [1, 4])
def test_rows_that_are_not_zero_are_the_tokens(pieces_per_batch: int, tiny_checkpoint: Tiny) -> None:
    result = find(composed_model(tiny_checkpoint("llama", tie_word_embeddings=False), 2, 4), pieces_per_batch)
    assert result.details["precision"] == 1.0
    # The last token of a piece predicts nothing, so no gradient reaches it.
    assert 11 / 12 <= result.token_recovery < 1.0
    assert isinstance(result.details["recall"], float) and result.details["recall"] > 0.9
    assert (result.direction, result.num_pieces) == ("averaging", 8)


def test_of_a_tied_head_the_largest_rows_are_taken(tiny_checkpoint: Tiny) -> None:
    model = composed_model(tiny_checkpoint("llama", tie_word_embeddings=True), 2, 4)
    result = find(model, 1)
    assert result.details["rows_with_gradient"] == 99.0
    assert result.token_recovery > max(0.5, result.baseline.token_recovery)


def test_gradients_are_those_of_the_unsplit_model_and_nothing_is_left_behind(tiny_checkpoint: Tiny) -> None:
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=True)
    model = composed_model(checkpoint, 2, 4)
    model.bottom.requires_grad_(False)
    found = collect_embedding_gradients(model, IDS, 4)
    whole: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    whole(IDS[:4], labels=IDS[:4]).loss.backward()
    torch.testing.assert_close(found.norms_GV[0], whole.get_input_embeddings().weight.grad.norm(dim=-1))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.bottom.parameters())
