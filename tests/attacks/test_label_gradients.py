"""Labels from gradients, where the labels are random and so cannot be guessed from the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from splitlearn.attacks import BACKWARD, FORWARD, AttackResult, Budget, Pieces, collect
from splitlearn.attacks.label_gradients import LabelsByConjugateGradients, LabelsFromGradients, next_labels
from splitlearn.model import ComposedCausalLM
from tests.attacks.planted import composed_model, gradients_of, view_of
from tests.tiny_models import token_ids

Tiny = Callable[..., Path]
LAST = (2, 6)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Tiny) -> ComposedCausalLM:
    return composed_model(tiny_checkpoint("llama", tie_word_embeddings=False), *LAST)


def find(model: ComposedCausalLM, test: Pieces, attack: LabelsFromGradients | LabelsByConjugateGradients) -> AttackResult:
    return attack.run(view_of(model, test), Budget(), torch.Generator().manual_seed(0))


def test_right_above_the_last_layer_all_labels_are_found(model: ComposedCausalLM) -> None:
    result = find(model, gradients_of(model), LabelsFromGradients())
    assert result.token_recovery == 1.0
    assert result.by_position == (1.0,) * 11 + (None,), "the last token of a piece predicts nothing"
    assert (result.attack, result.cut, result.direction) == ("labels", 2, BACKWARD)
    assert result.baseline.token_recovery < 0.2, "random text cannot be guessed"


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "mixtral"])
def test_layers_above_the_cut_hide_little(model_type: str, tiny_checkpoint: Tiny) -> None:
    composed = composed_model(tiny_checkpoint(model_type), 1, 4)
    test = gradients_of(composed)
    closed = find(composed, test, LabelsFromGradients()).token_recovery
    solved = find(composed, test, LabelsByConjugateGradients(iterations=100)).token_recovery
    assert solved >= closed
    assert solved > 0.9


def test_a_factor_changes_nothing(model: ComposedCausalLM) -> None:
    test = gradients_of(model)
    scaled = replace(test, crossed_NTD=test.crossed_NTD * 1e-3)
    assert find(model, scaled, LabelsFromGradients()).token_recovery == 1.0


def test_only_supervised_positions_count(model: ComposedCausalLM) -> None:
    labels = token_ids(3, 12).clone()
    labels[:, :6] = -100
    test = gradients_of(model, labels_NT=labels)
    result = find(model, test, LabelsFromGradients())
    assert result.by_position == (None,) * 5 + (1.0,) * 6 + (None,)


def test_labels_may_differ_from_the_text(model: ComposedCausalLM) -> None:
    labels = token_ids(3, 12, seed=9)
    result = find(model, gradients_of(model, labels_NT=labels), LabelsFromGradients())
    assert result.token_recovery == 1.0


def test_weights_that_moved_are_attacked_with_the_base(model: ComposedCausalLM, tiny_checkpoint: Tiny) -> None:
    moved = composed_model(tiny_checkpoint("llama", tie_word_embeddings=False), *LAST)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)), alpha=0.01)
    test = gradients_of(moved)
    result = LabelsFromGradients().run(view_of(moved, test, public=model), Budget(), torch.Generator())
    assert result.token_recovery > 0.9


def test_the_budget_ends_conjugate_gradients(model: ComposedCausalLM) -> None:
    view = view_of(model, gradients_of(model))
    result = LabelsByConjugateGradients().run(view, Budget(steps=5), torch.Generator())
    assert result.budget.ended_by == "steps" and result.budget.steps == 5
    assert result.num_pieces == 3


def test_views_that_do_not_do_are_refused(model: ComposedCausalLM) -> None:
    smashed = collect(model, token_ids(3, 12), 2)
    attack, rng = LabelsFromGradients(), torch.Generator()
    with pytest.raises(ValueError, match="the attack labels needs gradients"):
        attack.run(view_of(model, smashed, direction=FORWARD), Budget(), rng)
    private = replace(view_of(model, gradients_of(model)), public=None)
    with pytest.raises(ValueError, match="needs public weights of all parts above cut 2"):
        attack.run(private, Budget(), rng)


def test_next_labels() -> None:
    truth, mask = next_labels(torch.tensor([[5, 6, -100, 8]]))
    assert truth.tolist() == [[6, -100, 8, -100]]
    assert mask.tolist() == [[True, False, True, False]]
