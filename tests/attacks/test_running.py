"""A plan of attacks on a tiny model: what is run, what is left out, and which one is the headline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from splitlearn.attacks import AttackPlan, AttackReport, AttackTexts, Budget, PublicModel, Watch, run_attacks
from splitlearn.boundary import find_routes
from splitlearn.cut import Placement
from splitlearn.model import ComposedCausalLM
from tests.attacks.views import NUM_TOKENS, compose, decode, draw_pieces, make_clear

PLAN = AttackPlan(("nearest_embedding", "ridge", "mlp", "prefix_search"), tokens=NUM_TOKENS, prompts=2, prompt_tokens=4)
PLAN = replace(PLAN, budgets={"mlp": Budget(steps=2), "prefix_search": Budget(seconds=20)})
KEYS = {"attack", "cut", "direction", "token_recovery", "rouge_l", "budget", "baseline", "token_overlap", "by_position"}


@pytest.fixture(scope="module")
def texts() -> AttackTexts:
    return AttackTexts(*(draw_pieces(count, seed) for seed, count in enumerate((64, 8, 8))))


@pytest.fixture
def model(tiny_checkpoint: Callable[..., Path]) -> ComposedCausalLM:
    return make_clear(compose(tiny_checkpoint("llama")))


def run(model: ComposedCausalLM, texts: AttackTexts, plan: AttackPlan, watch: Watch | None = None) -> AttackReport:
    return run_attacks(model, texts, plan, public=PublicModel.of(model), decode=decode, watch=watch)


def test_each_attack_has_the_same_keys_and_the_best_is_the_headline(model: ComposedCausalLM, texts: AttackTexts) -> None:
    begun: list[str] = []
    report = run(model, texts, replace(PLAN, cuts=(1, 2)), Watch(begins=lambda words, _: begun.append(words)))
    plain = json.loads(json.dumps(report.to_dict()))
    assert [(attack["attack"], attack["cut"]) for attack in plain["attacks"]] == [
        (name, cut) for cut in (1, 2) for name in PLAN.attacks
    ]
    assert len({frozenset(attack) for attack in plain["attacks"]}) == 1 and plain["attacks"][0].keys() >= KEYS
    best = max(attack["token_recovery"] for attack in plain["attacks"])
    assert plain["headline"]["token_recovery"] == best > 0.9
    assert list(plain["headline"]) == ["attack", "cut", "direction", "token_recovery", "rouge_l"]
    (mlp,) = (attack for attack in plain["attacks"] if attack["attack"] == "mlp" and attack["cut"] == 1)
    assert mlp["budget"]["ended_by"] == "steps" and mlp["budget"]["steps"] == 2
    (search,) = (attack for attack in plain["attacks"] if attack["attack"] == "prefix_search" and attack["cut"] == 1)
    assert search["details"]["order"] in ("ridge", "mlp"), "those that are best on the attacker's own texts"
    assert search["num_pieces"] == 2
    assert begun[:2] == ["what crosses cut 1, forward", "nearest_embedding at cut 1, forward"]


def test_private_weights_leave_out_what_needs_them(model: ComposedCausalLM, texts: AttackTexts) -> None:
    report = run(model, texts, replace(PLAN, base_weights="private"))
    assert [attack.attack for attack in report.left_out] == ["nearest_embedding", "prefix_search"]
    assert "no weights are public" in report.left_out[0].reason
    assert [result.attack for result in report.results] == ["ridge", "mlp"]
    assert not any(result.base_weights_public for result in report.results)
    with pytest.raises(ValueError, match="none of the attacks can be run; prefix_search: prefix_search needs smashed data"):
        run(model, texts, replace(PLAN, base_weights="private", attacks=("prefix_search",)))


def test_an_attack_does_not_depend_on_those_before_it(tiny_checkpoint: Callable[..., Path], texts: AttackTexts) -> None:
    # Of a model whose smashed data are not clear, so that attacks differ in what they find.
    model = compose(tiny_checkpoint("llama"))
    alone = run(model, texts, replace(PLAN, attacks=("mlp",)))
    among = run(model, texts, PLAN)
    assert alone.results[0].by_position == among.results[2].by_position
    torch.manual_seed(1)
    other = run(model, texts, replace(PLAN, attacks=("mlp",), seed=1))
    assert other.results[0].by_position != alone.results[0].by_position


def test_gradients_and_responses_are_attacked_too(model: ComposedCausalLM, texts: AttackTexts) -> None:
    names = ("bag_of_tokens", "labels", "labels_cg", "responses", "ridge")
    plan = replace(PLAN, attacks=names, cuts=(2, 1), directions=("averaging", "backward", "forward"))
    report = run(model, texts, replace(plan, budgets={"labels_cg": Budget(steps=5)}))
    ran = [(result.attack, result.cut, result.direction) for result in report.results]
    assert ran == [
        ("bag_of_tokens", 2, "averaging"),
        *((name, 2, "backward") for name in ("labels", "labels_cg")),
        *((name, 2, "forward") for name in ("responses", "ridge")),
        *((name, 1, "backward") for name in ("labels", "labels_cg")),
        *((name, 1, "forward") for name in ("responses", "ridge")),
    ], "averaging shows the same whatever the cuts"
    assert report.left_out == () and report.headline.direction != "averaging"
    responses = report.results[3]
    assert responses.num_pieces == 2 and responses.token_recovery == 1.0, "greedy decoding with public weights"
    alone = run(model, texts, replace(plan, attacks=("bag_of_tokens",)))
    assert alone.headline.attack == "bag_of_tokens"


def test_a_cut_that_nothing_crosses_is_refused(tiny_checkpoint: Callable[..., Path], texts: AttackTexts) -> None:
    parts = compose(tiny_checkpoint("llama")).parts
    model = ComposedCausalLM(*parts, routes=find_routes(Placement.one_party(num_gpus=0)))
    with pytest.raises(ValueError, match="nothing crosses cut 1"):
        run(model, texts, PLAN)
