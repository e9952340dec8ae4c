"""Attacks that rank tokens find what is there, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from splitlearn.attacks import (
    BACKWARD,
    AttackerView,
    Budget,
    MlpInverter,
    NearestEmbedding,
    Pieces,
    RankingAttack,
    RidgeMap,
    TransformerInverter,
)
from tests.attacks.views import compose, make_clear, make_view

UNLIMITED = Budget()


def trained() -> list[RankingAttack]:
    return [
        RidgeMap(),
        MlpInverter(hidden=64, epochs=5, batch_size=8, learning_rate=1e-2),
        TransformerInverter(hidden=64, num_layers=1, epochs=5, batch_size=8, learning_rate=1e-2),
    ]


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def view(tiny_checkpoint: Callable[..., Path]) -> AttackerView:
    return make_view(make_clear(compose(tiny_checkpoint("llama"))), num_auxiliary=128)


def shuffled(view: AttackerView) -> AttackerView:
    """Return a view in which what crossed has nothing to do with the tokens beside it."""

    def mixed(pieces: Pieces) -> Pieces:
        flat = pieces.crossed_NTD.flatten(0, 1)
        order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(1))
        return replace(pieces, crossed_NTD=flat[order].view_as(pieces.crossed_NTD))

    return replace(view, auxiliary=mixed(view.auxiliary), validation=mixed(view.validation), test=mixed(view.test))


@pytest.mark.parametrize("model_type", ["llama", "gemma"])
def test_embeddings_that_cross_are_found(model_type: str, tiny_checkpoint: Callable[..., Path]) -> None:
    # The bottom has no layers: what crosses are the embeddings, in gemma's case scaled.
    result = NearestEmbedding().run(make_view(compose(tiny_checkpoint(model_type), (0, 4))), UNLIMITED, rng())
    assert result.token_recovery == 1.0 and result.details["pieces_exact"] == 1.0 and result.rouge_l == 1.0


@pytest.mark.parametrize("attack", trained(), ids=lambda attack: attack.name)
@pytest.mark.parametrize("is_public", [True, False])
def test_trained_attacks_find_most_tokens(attack: RankingAttack, is_public: bool, view: AttackerView) -> None:
    result = attack.run(view if is_public else replace(view, public=None), UNLIMITED, rng())
    assert result.token_recovery > 0.7 > 2 * result.baseline.token_recovery
    assert result.base_weights_public == is_public and result.budget.ended_by is None
    assert result.budget.pieces == len(view.auxiliary)


@pytest.mark.parametrize("attack", [NearestEmbedding(), *trained()], ids=lambda attack: attack.name)
def test_nothing_is_found_where_nothing_is(attack: RankingAttack, view: AttackerView) -> None:
    result = attack.run(shuffled(view), UNLIMITED, rng())
    assert result.token_recovery < result.baseline.token_recovery + 0.05


@pytest.mark.parametrize("attack", trained(), ids=lambda attack: attack.name)
def test_random_state_is_as_it_was_and_the_seed_decides(attack: RankingAttack, view: AttackerView) -> None:
    before = torch.get_rng_state()
    with torch.inference_mode():
        guesses = [attack.fitted(replace(view), UNLIMITED, rng())[0].order(view.test.crossed_NTD, 5) for _ in range(2)]
    assert torch.equal(*guesses)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_budget_ends_an_attack_and_says_so(view: AttackerView) -> None:
    by_steps = MlpInverter().run(view, Budget(pieces=48, steps=3), rng()).budget
    assert (by_steps.pieces, by_steps.steps, by_steps.ended_by) == (48, 3, "steps")
    by_seconds = MlpInverter().run(view, Budget(seconds=0.0), rng()).budget
    assert (by_seconds.steps, by_seconds.ended_by) == (0, "seconds")
    assert MlpInverter(epochs=1).run(view, Budget(steps=12), rng()).budget.ended_by is None


def test_an_attack_that_cannot_be_says_why(view: AttackerView) -> None:
    with pytest.raises(ValueError, match="nearest_embedding needs the public embedding, and no weights are public"):
        NearestEmbedding().run(replace(view, public=None), UNLIMITED, rng())
    with pytest.raises(ValueError, match="ridge reads smashed data, not the gradients of direction 'backward'"):
        RidgeMap().run(replace(view, direction=BACKWARD), UNLIMITED, rng())


def test_one_view_is_fitted_once(view: AttackerView) -> None:
    attack = RidgeMap()
    ranker, use = attack.fitted(view, UNLIMITED, rng())
    assert attack.fitted(view, UNLIMITED, rng())[0] is ranker and use.pieces == len(view.auxiliary)
    assert attack.fitted(replace(view), UNLIMITED, rng())[0] is not ranker
