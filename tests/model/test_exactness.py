"""The parts together are the unsplit transformers model, to the bit, loaded from sharded checkpoints on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from tests.tiny_models import CONFIGS, NUM_LAYERS, recompute_activations, token_ids

CASES = [(model_type, tied) for model_type in CONFIGS for tied in (False, True)]
OTHER_CUTS = [(0, 0), (0, NUM_LAYERS), (1, 5), (3, 3), (NUM_LAYERS, NUM_LAYERS)]
CUT_SENSITIVE = ["gpt2", "gemma3_text", "opt", "mixtral"]


def load_both(folder: Path, cut: tuple[int, int] = (2, 4), low_memory: bool = True) -> tuple[Any, ComposedCausalLM]:
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    parts = ModelFactory.create_split_models(whole.config.model_type, folder, *cut, low_memory=low_memory)
    return whole, ComposedCausalLM(*parts)


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    assert left.shape == right.shape
    return float((left - right).detach().abs().max())


def masks() -> dict[str, torch.Tensor | None]:
    left, right = torch.ones(3, 11, dtype=torch.long), torch.ones(3, 11, dtype=torch.long)
    left[0, :4] = left[1, :1] = 0
    right[0, -4:] = right[1, -1:] = 0
    return {"no padding": None, "left padding": left, "right padding": right}


def assert_same_logits(whole: Any, split: ComposedCausalLM) -> None:
    ids = token_ids()
    with torch.no_grad():
        for padding, mask in masks().items():
            expected = whole(ids, attention_mask=mask, use_cache=False).logits
            assert difference(expected, split(ids, attention_mask=mask).logits) == 0.0, padding


def assert_same_gradients(whole: Any, split: ComposedCausalLM) -> None:
    whole.train()
    split.train()
    ids, mask = token_ids(), masks()["left padding"]
    torch.manual_seed(3)
    expected = whole(ids, attention_mask=mask, labels=ids, use_cache=False).loss
    expected.backward()
    torch.manual_seed(3)
    loss = split(ids, attention_mask=mask, labels=ids).loss
    loss.backward()
    assert difference(expected, loss) == 0.0
    gradients: dict[str, torch.Tensor | None] = {}
    for part in split.parts:
        for name, parameter in part.model.named_parameters():
            gradients.setdefault(part.blueprint.global_name(name, part.spec), parameter.grad)
    largest = 0.0
    for name, parameter in whole.named_parameters():
        gradient = gradients[name]
        assert gradient is not None and difference(parameter.grad, gradient) == 0.0, name
        largest = max(largest, float(parameter.grad.abs().max()))
    assert largest > 1e-4, "gradients that are all zero would compare equal too"
    whole.eval()
    split.eval()


def greedy(split: ComposedCausalLM, ids: torch.Tensor, mask: torch.Tensor, new_tokens: int) -> torch.Tensor:
    cache, inputs, tokens = split.make_cache(), ids, []
    for _ in range(new_tokens):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        logits = split(inputs, attention_mask=mask, position_ids=positions, past_key_values=cache).logits
        inputs = logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(inputs)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return torch.cat(tokens, 1)


def assert_same_generation(whole: Any, split: ComposedCausalLM) -> None:
    ids, mask = token_ids(), masks()["left padding"]
    assert mask is not None
    settings = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        expected = whole.generate(ids, attention_mask=mask, **settings)[:, ids.shape[1] :]
        assert torch.equal(expected, greedy(split, ids, mask, 7))


def assert_same_parameters(whole: Any, split: ComposedCausalLM) -> None:
    expected = dict(whole.named_parameters(remove_duplicate=False))
    held: list[str] = []
    for part in split.parts:
        for name, parameter in part.model.named_parameters(remove_duplicate=False):
            global_name = part.blueprint.global_name(name, part.spec)
            assert torch.equal(parameter, expected[global_name]), global_name
            held.append(global_name)
    assert sorted(held) == sorted(expected), "each parameter is in one part, and no part has a foreign one"


@pytest.mark.parametrize(("model_type", "tied"), CASES)
def test_parts_equal_the_unsplit_model(model_type: str, tied: bool, tiny_checkpoint: Callable[..., Path]) -> None:
    whole, split = load_both(tiny_checkpoint(model_type, tie_word_embeddings=tied))
    assert (len(split.bottom.blueprint.ties) > 0) == tied
    assert_same_parameters(whole, split)
    assert_same_logits(whole, split)
    assert_same_gradients(whole, split)
    assert_same_generation(whole, split)


@pytest.mark.parametrize("cut", OTHER_CUTS)
@pytest.mark.parametrize("model_type", CUT_SENSITIVE)
def test_every_cut_is_exact(model_type: str, cut: tuple[int, int], tiny_checkpoint: Callable[..., Path]) -> None:
    whole, split = load_both(tiny_checkpoint(model_type, tie_word_embeddings=True), cut)
    assert_same_parameters(whole, split)
    assert_same_logits(whole, split)
    assert_same_gradients(whole, split)
    assert_same_generation(whole, split)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma3_text", "mixtral"])
def test_the_traditional_path_gives_the_same_parts(model_type: str, tiny_checkpoint: Callable[..., Path]) -> None:
    whole, split = load_both(tiny_checkpoint(model_type, tie_word_embeddings=True), low_memory=False)
    assert_same_parameters(whole, split)
    assert_same_logits(whole, split)
    assert_same_gradients(whole, split)


def test_a_checkpoint_that_stores_experts_one_by_one_was_converted(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("mixtral", tie_word_embeddings=False)
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    whole, _ = load_both(folder)
    assert any(".experts.3.w2." in name for name in names)
    assert not any(".experts.3." in name for name, _ in whole.named_parameters())


def test_the_mask_matters_on_every_part(tiny_checkpoint: Callable[..., Path]) -> None:
    """If a trunk ignored the padding, real tokens would change; this shows that the exactness tests would notice."""
    _, split = load_both(tiny_checkpoint("mixtral", tie_word_embeddings=False))
    ids, mask = token_ids(), masks()["left padding"]
    with torch.no_grad():
        hidden = split.bottom(ids, attention_mask=mask)
        assert difference(split.trunk(hidden, attention_mask=mask)[0, 4:], split.trunk(hidden)[0, 4:]) > 1e-3


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_gradient_checkpointing_changes_nothing(model_type: str, tiny_checkpoint: Callable[..., Path]) -> None:
    """Smashed data must reach the layers in the recomputation too."""
    whole, split = load_both(tiny_checkpoint(model_type, tie_word_embeddings=False))
    for part in split.parts:
        recompute_activations(part.model)
    assert_same_gradients(whole, split)


def test_bfloat16_parts_equal_the_bfloat16_model(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("gemma3_text", tie_word_embeddings=True)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    parts = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True, dtype=torch.bfloat16)
    assert {part.dtype for part in parts} == {torch.bfloat16}
    assert_same_logits(whole, ComposedCausalLM(*parts))
    buffers = dict(parts[1].model.named_buffers())
    assert {tensor.dtype for name, tensor in buffers.items() if "inv_freq" in name} == {torch.float32}
