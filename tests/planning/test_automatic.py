from __future__ import annotations

import pytest
import torch

from splitlearn.cut import CutError
from splitlearn.memory import GIB
from splitlearn.model.blueprint import draw_blueprint
from splitlearn.planning import choose_cut
from splitlearn.planning.sizes import compute_per_token, weight_bytes
from tests.tiny_models import VOCAB_SIZE, tiny_config, tiny_model

EMBEDDING = VOCAB_SIZE * 64


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "opt"])
def test_sizes_add_up_to_the_model(model_type: str) -> None:
    model = tiny_model(model_type)
    sizes = weight_bytes(draw_blueprint(model.config, torch.float32))
    total = sum(each.nbytes for name, each in model.named_parameters(remove_duplicate=False))
    assert sizes.before + sum(sizes.layers) + sizes.after == total


def test_compute_leaves_out_what_is_looked_up_and_experts_that_are_not_used() -> None:
    llama = draw_blueprint(tiny_config("llama", tie_word_embeddings=False), torch.float32)
    assert compute_per_token(llama).before == 0
    assert compute_per_token(llama).after == EMBEDDING
    tied = draw_blueprint(tiny_config("llama", tie_word_embeddings=True), torch.float32)
    assert (compute_per_token(tied).before, compute_per_token(tied).after) == (0, EMBEDDING), "the head is multiplied with"
    mixtral = draw_blueprint(tiny_config("mixtral"), torch.float32)
    every_expert = weight_bytes(mixtral).layers[0] // 4
    used = compute_per_token(mixtral).layers[0]
    assert 0.4 * every_expert < used < 0.7 * every_expert, "2 of 4 experts, and attention"


@pytest.mark.parametrize("balance", ["bytes", "compute"])
def test_no_other_cut_has_a_smaller_largest_part(balance: str) -> None:
    blueprint = draw_blueprint(tiny_config("llama", num_hidden_layers=12, vocab_size=999), torch.float32)
    figures = weight_bytes(blueprint) if balance == "bytes" else compute_per_token(blueprint)
    chosen = choose_cut(blueprint, balance)
    largest = max(figures.of(part) for part in chosen.parts)
    for first in range(1, 12):
        for second in range(first + 1, 12):
            plan = type(chosen)(12, first, second)
            assert max(figures.of(part) for part in plan.parts) >= largest
    assert all(part.start < part.end for part in chosen.parts)


def test_budgets_are_kept() -> None:
    blueprint = draw_blueprint(tiny_config("llama", num_hidden_layers=12), torch.float32)
    sizes = weight_bytes(blueprint)
    budget = sizes.before + 2 * sizes.layers[0]
    plan = choose_cut(blueprint, "bytes", {"bottom": budget / GIB, "trunk": None})
    assert plan.split_point_1 == 2
    assert sizes.of(plan.bottom) <= budget


def test_two_layers_leave_a_part_without_any() -> None:
    plan = choose_cut(draw_blueprint(tiny_config("llama", num_hidden_layers=2), torch.float32))
    assert plan.num_layers == 2


def test_what_cannot_be_kept_is_told() -> None:
    blueprint = draw_blueprint(tiny_config("llama"), torch.float32)
    with pytest.raises(CutError, match=r"^max_gib.bottom allows 1.0 KiB, but the smallest bottom of this model takes \d"):
        choose_cut(blueprint, "bytes", {"bottom": 2**10 / GIB})
    least = {"bottom": 300_000 / GIB, "trunk": 200_000 / GIB, "top": 300_000 / GIB}
    with pytest.raises(CutError, match=r"no cut keeps every part within max_gib \(bottom .* trunk .* top .*\): the weights"):
        choose_cut(blueprint, "bytes", least)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balance": "layers"}, "^balance is 'layers'; choose one of bytes, compute"),
        ({"max_gib": {"middle": 1}}, "^max_gib names 'middle'"),
        ({"max_gib": {"top": 0}}, r"^max_gib.top is 0; give a number"),
        ({"max_gib": {"top": "4GB"}}, r"^max_gib.top is '4GB'; give a number"),
        ({"max_gib": {"top": True}}, r"^max_gib.top is True; give a number"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_cut(draw_blueprint(tiny_config("llama"), torch.float32), **settings)  # type: ignore[arg-type]
