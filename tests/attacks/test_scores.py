"""Scores, baselines and results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitlearn.attacks import FORWARD, NO_GUESS, AttackerView, Budget, Pieces, Reconstruction, rouge_l, score, token_recovery
from tests.attacks.views import compose, decode, make_view

TRUTH_NT = torch.tensor([[1, 2, 3], [1, 1, 4]])


def view_of(test: Pieces) -> AttackerView:
    return AttackerView(1, FORWARD, Pieces(TRUTH_NT, torch.zeros(2, 3, 4)), test, test, vocab_size=9, decode=decode)


def test_recovery_counts_positions_that_count() -> None:
    guess_NT = torch.tensor([[1, 9, 3], [NO_GUESS, 1, 9]])
    assert token_recovery(guess_NT, TRUTH_NT) == 0.5
    mask_NT = torch.tensor([[True, True, True], [True, True, False]])
    assert token_recovery(guess_NT, TRUTH_NT, mask_NT) == pytest.approx(0.6)


def test_a_result_says_all_of_it() -> None:
    mask_NT = torch.tensor([[True, True, True], [True, True, False]])
    view = view_of(Pieces(TRUTH_NT, torch.zeros(2, 3, 4), mask_NT=mask_NT))
    meter = Budget(steps=2).start()
    assert meter.take_step() and meter.take_step() and not meter.take_step()
    result = score("test", view, torch.tensor([[1, 2, 3], [1, 9, 9]]), meter.use(), base_weights_public=False)
    assert result.token_recovery == pytest.approx(0.8)
    assert result.by_position == (1.0, 0.5, 1.0)
    assert result.reconstructions[1] == Reconstruction("word1 word1", "word1 word9")
    assert result.rouge_l == pytest.approx((1 + 0.5) / 2)
    assert result.baseline.token_recovery == pytest.approx(3 / 5), "token 1 is the most frequent"
    assert result.token_overlap == 1.0 and result.details["pieces_exact"] == 0.5
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["budget"]["ended_by"] == "steps" and plain["budget"]["steps"] == 2
    assert plain["baseline"]["guess"] == "most frequent token"


def test_rouge_l_is_that_of_the_longest_common_subsequence() -> None:
    # 2 of 3 words of each in order.
    assert rouge_l([Reconstruction("a b c", "a c b")]) == pytest.approx(2 / 3)
    assert rouge_l([]) is None


def test_a_public_language_model_is_a_baseline_too(tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    view = make_view(model)
    truth_NT = view.test.ids_NT
    with torch.no_grad():
        next_NT = model(truth_NT).logits.argmax(dim=-1)
    assert view.next_tokens is not None and torch.equal(view.next_tokens, next_NT)
    use = Budget().start().use()
    labels = score("labels", view, truth_NT, use, base_weights_public=True, truth_NT=next_NT, is_next_token=True)
    assert labels.baseline.guess.startswith("language model") and labels.baseline.token_recovery == 1.0


def test_positions_without_tokens_score_nothing() -> None:
    none = torch.zeros_like(TRUTH_NT, dtype=torch.bool)
    view = view_of(Pieces(TRUTH_NT, torch.zeros(2, 3, 4), mask_NT=none))
    result = score("test", view, TRUTH_NT, Budget().start().use(), base_weights_public=False)
    assert result.token_recovery == 0.0 and result.by_position == (None, None, None) and result.baseline.token_recovery == 0.0


@pytest.mark.parametrize("limit", [{"pieces": -1}, {"seconds": -0.5}])
def test_a_negative_budget_is_refused(limit: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"budget of {next(iter(limit))} is -"):
        Budget(**limit)
