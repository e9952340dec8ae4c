"""With public weights below the cut, prefixes are found exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from splitlearn.attacks import AttackerView, Budget, Pieces, PrefixSearch, Ranker, RankingAttack, RidgeMap
from splitlearn.attacks.budget import BudgetMeter
from tests.attacks.views import NUM_TOKENS, compose, make_clear, make_view
from tests.tiny_models import VOCAB_SIZE


class _ById(RankingAttack):
    """Ranks tokens by their ids, whatever crossed: the worst order that is fair."""

    name = "by_id"

    def fit(self, view: AttackerView, meter: BudgetMeter) -> Ranker:
        return Ranker(lambda crossed: crossed[..., :1] * 0 + 1, -torch.arange(VOCAB_SIZE).float()[:, None])


def search(view: AttackerView, order: RankingAttack, budget: Budget | None = None, **settings: int) -> dict[str, object]:
    attack = PrefixSearch(order, num_tokens=NUM_TOKENS, **settings)
    return attack.run(view, budget or Budget(), torch.Generator().manual_seed(0)).to_dict()


def with_noise(pieces: Pieces, share: float, seed: int) -> Pieces:
    noise = torch.randn(pieces.crossed_NTD.shape, generator=torch.Generator().manual_seed(seed))
    size = pieces.crossed_NTD.square().mean(dim=-1, keepdim=True).sqrt()
    return replace(pieces, crossed_NTD=pieces.crossed_NTD + share * size * noise)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("cut", [1, 2])
def test_every_prompt_is_found_whole(model_type: str, cut: int, tiny_checkpoint: Callable[..., Path]) -> None:
    view = make_view(compose(tiny_checkpoint(model_type)), cut)
    result = search(view, _ById(), num_prompts=3)
    assert result["token_recovery"] == 1.0 and result["num_pieces"] == 3
    details = result["details"]
    assert isinstance(details, dict) and details["matching"] == "exact" and details["positions_searched"] == 1.0
    # A token with id i is the i-th candidate: no more chunks are run than needed to reach it.
    assert details["candidates_mean"] < VOCAB_SIZE


def test_a_better_order_needs_fewer_candidates(tiny_checkpoint: Callable[..., Path]) -> None:
    view = make_view(make_clear(compose(tiny_checkpoint("llama"))))
    by_id, by_ridge = (search(view, order) for order in (_ById(), RidgeMap()))
    assert by_ridge["token_recovery"] == 1.0
    assert by_ridge["details"]["candidates_median"] == 1  # type: ignore[index]
    assert by_ridge["budget"]["steps"] < by_id["budget"]["steps"]  # type: ignore[index]


def test_under_noise_the_nearest_is_kept(tiny_checkpoint: Callable[..., Path]) -> None:
    view = make_view(make_clear(compose(tiny_checkpoint("llama"))))
    auxiliary, validation, test = (
        with_noise(pieces, 0.3, seed) for seed, pieces in enumerate((view.auxiliary, view.validation, view.test))
    )
    noisy = replace(view, auxiliary=auxiliary, validation=validation, test=test)
    result = search(noisy, RidgeMap(), num_nearest=32)
    assert result["details"]["matching"] == "nearest of 32"  # type: ignore[index]
    assert 0.9 < result["token_recovery"] <= 1.0  # type: ignore[operator]


def test_the_budget_ends_the_search_and_the_order_guesses_the_rest(tiny_checkpoint: Callable[..., Path]) -> None:
    view = make_view(make_clear(compose(tiny_checkpoint("llama"))))
    order = RidgeMap()
    alone = order.run(view, Budget(), torch.Generator()).token_recovery
    # Enough to measure distances on four of its own pieces, nine candidates a token, and for a few tokens more.
    result = search(view, order, Budget(steps=4 * NUM_TOKENS * 9 + 20))
    assert result["budget"]["ended_by"] == "steps"  # type: ignore[index]
    assert 0 < result["details"]["positions_searched"] < 1  # type: ignore[index]
    assert result["token_recovery"] >= alone - 0.05  # type: ignore[operator]


def test_padding_is_not_searched(tiny_checkpoint: Callable[..., Path]) -> None:
    view = make_view(make_clear(compose(tiny_checkpoint("llama"))))
    mask_NT = torch.ones_like(view.test.ids_NT, dtype=torch.bool)
    mask_NT[0, 5:] = False
    result = search(replace(view, test=replace(view.test, mask_NT=mask_NT)), RidgeMap(), num_prompts=2)
    assert result["token_recovery"] == 1.0


def test_private_weights_below_the_cut_are_said(tiny_checkpoint: Callable[..., Path]) -> None:
    view = make_view(make_clear(compose(tiny_checkpoint("llama"))))
    assert view.public is not None
    with pytest.raises(ValueError, match="prefix_search needs smashed data, and the public weights of all parts below cut 1"):
        search(replace(view, public=replace(view.public, bottom=None)), RidgeMap())
    with pytest.raises(ValueError, match="num_prompts of the prefix search is 0"):
        PrefixSearch(RidgeMap(), num_prompts=0)
