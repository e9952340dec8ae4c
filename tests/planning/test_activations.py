from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from splitlearn.cut import SplitPlan
from splitlearn.model.blueprint import draw_blueprint
from splitlearn.planning.activations import Activations, measure_activations
from tests.architectures.catalogue import tiny_config as catalogue_config
from tests.tiny_models import tiny_model

ROWS, TOKENS = 2, 16


def really_kept(model: Any, vocab_size: int) -> int:
    """Run a padded batch and count the bytes that autograd saves, but for the weights themselves."""
    seen = {each.untyped_storage().data_ptr() for each in [*model.parameters(), *model.buffers()]}
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in seen:
            seen.add(tensor.untyped_storage().data_ptr())
            kept.append(tensor)
        return tensor

    ids_BT = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, :3] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        model.loss_function(logits=logits_BTV, labels=ids_BT, vocab_size=vocab_size)
    return sum(each.untyped_storage().nbytes() for each in kept)


def total(activations: Activations) -> int:
    return activations.before + sum(activations.layers) + activations.after


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2", "gemma2", "opt", "phi3"])
def test_it_is_what_a_real_batch_keeps(model_type: str) -> None:
    model = tiny_model(model_type).train()
    measured = measure_activations(draw_blueprint(model.config, torch.float32), ROWS, TOKENS)
    assert measured is not None and not measured.is_upper_bound
    assert total(measured) == pytest.approx(really_kept(model, model.config.vocab_size), rel=0.03)


def test_layers_that_may_be_dropped_are_counted() -> None:
    """The plan is for a batch that drops none, and says that one may keep less."""
    config = tiny_model("opt").config
    whole = measure_activations(draw_blueprint(config, torch.float32), ROWS, TOKENS)
    config.layerdrop = 0.5
    measured = measure_activations(draw_blueprint(config, torch.float32), ROWS, TOKENS)
    assert whole is not None and measured == replace(whole, is_upper_bound=True)


def test_layers_of_two_kinds_are_told_apart() -> None:
    config = catalogue_config("bamba")
    measured = measure_activations(draw_blueprint(config, torch.float32), ROWS, TOKENS)
    assert measured is not None
    assert len(set(measured.layers)) == 2, "state-space layers and attention layers"


def test_adapters_keep_less() -> None:
    class Adapted(nn.Module):
        def __init__(self, module: nn.Linear) -> None:
            super().__init__()
            self.module = module
            self.down = nn.Linear(module.in_features, 4, bias=False)
            self.up = nn.Linear(4, module.out_features, bias=False)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.module(hidden) + self.up(self.down(hidden))
            return output

    model = tiny_model("llama").train()
    blueprint = draw_blueprint(model.config, torch.float32)
    measured = measure_activations(blueprint, ROWS, TOKENS, lora_rank=4)
    everything = measure_activations(blueprint, ROWS, TOKENS)
    model.requires_grad_(False)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and path != "lm_head":
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, Adapted(module))
    assert measured is not None and everything is not None
    assert total(measured) == pytest.approx(really_kept(model, model.config.vocab_size), rel=0.03)
    assert total(measured) < total(everything)


def test_parts_add_up() -> None:
    measured = measure_activations(draw_blueprint(tiny_model("llama").config, torch.float32), ROWS, TOKENS)
    assert measured is not None
    plan = SplitPlan(6, 2, 4)
    assert sum(measured.of(part) for part in plan.parts) == total(measured) + measured.temporary
    assert measured.of(plan.trunk) == 2 * measured.layers[0]


def test_experts_in_float32_get_an_upper_bound() -> None:
    model = tiny_model("mixtral").train()
    measured = measure_activations(draw_blueprint(model.config, torch.float32), ROWS, TOKENS)
    assert measured is not None and measured.is_upper_bound
    kept = really_kept(model, model.config.vocab_size)
    assert kept <= total(measured) <= 2 * kept


def test_a_model_that_looks_at_values_is_left_unknown() -> None:
    assert measure_activations(draw_blueprint(catalogue_config("dbrx"), torch.float32), ROWS, TOKENS) is None


@pytest.mark.parametrize("lora_rank", [None, 8])
def test_it_says_the_same_each_time(lora_rank: int | None) -> None:
    blueprint = draw_blueprint(tiny_model("llama").config, torch.float32)
    assert len({measure_activations(blueprint, ROWS, TOKENS, lora_rank) for _ in range(20)}) == 1


@pytest.mark.parametrize("chunk_tokens", [None, 8])
def test_nothing_of_it_stays_in_memory(chunk_tokens: int | None) -> None:
    blueprint = draw_blueprint(tiny_model("llama").config, torch.float32)
    before = num_fake_tensors()
    assert measure_activations(blueprint, ROWS, TOKENS, chunk_tokens=chunk_tokens) is not None
    assert num_fake_tensors() == before


def num_fake_tensors() -> int:
    gc.collect()
    # By the type itself, since isinstance() would ask lazy modules for theirs.
    return sum(type(thing) is FakeTensor for thing in gc.get_objects())
