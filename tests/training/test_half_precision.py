"""Of checkpoints in 16 bits, weights that are trained are held in float32, and the others as they are stored."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from splitlearn.loading import ModelFactory
from splitlearn.training import SplitCausalLM
from tests.tiny_models import token_ids

IDS_BT = token_ids()
FLOAT, BFLOAT, HALF = torch.float32, torch.bfloat16, torch.float16


@pytest.fixture(scope="module")
def stored(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def write(dtype: torch.dtype, model_type: str = "llama", **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("half")
        whole = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(model_type, **changes), dtype=dtype)
        whole.save_pretrained(folder, max_shard_size="50KB")
        return folder

    return write


def loaded(folder: Path, **settings: Any) -> SplitCausalLM:
    module = SplitCausalLM(str(folder), 2, 4, **settings)
    module.load_parts()
    return module.eval()


def dtypes(module: SplitCausalLM) -> list[set[torch.dtype]]:
    return [{each.dtype for each in part.parameters()} for part in module.parts]


@pytest.mark.parametrize("low_memory", [True, False])
@pytest.mark.parametrize("dtype", [BFLOAT, HALF])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_model_that_is_trained_is_the_unsplit_one_in_float32(
    model_type: str, dtype: torch.dtype, low_memory: bool, stored: Callable[..., Path]
) -> None:
    folder = stored(dtype, model_type)
    module = loaded(folder, low_memory=low_memory)
    assert dtypes(module) == [{FLOAT}] * 3
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=FLOAT).eval()
    with torch.no_grad():
        assert torch.equal(module(IDS_BT).logits, whole(IDS_BT).logits)


@pytest.mark.parametrize("low_memory", [True, False])
def test_frozen_parts_keep_their_dtype_and_smashed_data_are_cast_between(low_memory: bool, stored: Callable[..., Path]) -> None:
    folder = stored(BFLOAT)
    module = loaded(folder, low_memory=low_memory, optimizer={"parts": {"trunk": {"train": False}}})
    assert dtypes(module) == [{FLOAT}, {BFLOAT}, {FLOAT}]
    wide, narrow = (
        ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True, dtype=dtype) for dtype in (FLOAT, BFLOAT)
    )
    with torch.no_grad():
        expected = wide[2](narrow[1](wide[0](IDS_BT).bfloat16()).float()).logits
        assert torch.equal(module(IDS_BT).logits, expected)
    if low_memory:
        receipts = [part.receipt for part in module.parts]
        assert all(each is not None for each in receipts)
        assert [each.casts.keys() for each in receipts if each] == [{"bfloat16 -> float32"}, set(), {"bfloat16 -> float32"}]
        assert [bool(each.mapped_bytes) for each in receipts if each] == [False, True, False]


def test_gradients_pass_the_cast(stored: Callable[..., Path]) -> None:
    module = loaded(stored(BFLOAT), optimizer={"parts": {"trunk": {"train": False}}})
    module(IDS_BT).logits.float().sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in module.parts[0].layers.parameters())


def test_parts_with_adapters_keep_their_dtype(stored: Callable[..., Path]) -> None:
    module = loaded(stored(BFLOAT), peft={"method": "lora", "settings": {"target_modules": "all-linear"}})
    assert {each.dtype for each in module.parameters() if not each.requires_grad} == {BFLOAT}
    assert {each.dtype for each in module.parameters() if each.requires_grad} == {FLOAT}


@pytest.mark.parametrize("train", ["norms", "biases_and_norms"])
def test_both_ends_of_a_tie_have_one_dtype(train: str, stored: Callable[..., Path]) -> None:
    parts = {"bottom": {"train": train}, "trunk": {"train": False}, "top": {"train": False}}
    module = loaded(stored(BFLOAT, tie_word_embeddings=True), optimizer={"parts": parts})
    assert dtypes(module) == [{FLOAT}, {BFLOAT}, {FLOAT}]
    assert module.parts[0].model.model.embed_tokens.weight is module.parts[2].model.lm_head.weight


def test_a_chosen_dtype_is_kept_and_small_steps_are_warned_of(stored: Callable[..., Path]) -> None:
    folder = stored(BFLOAT)
    with pytest.warns(UserWarning, match="rounds to nothing; leave dtype=null .and precision=32-true"):
        assert dtypes(loaded(folder, dtype="bfloat16")) == [{BFLOAT}] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded(folder)
        loaded(folder, dtype="bfloat16", peft={"method": "lora", "settings": {"target_modules": "all-linear"}})


def test_small_steps_are_kept(stored: Callable[..., Path]) -> None:
    moved = {}
    for dtype in (None, "bfloat16"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = loaded(stored(BFLOAT), dtype=dtype, optimizer={"learning_rate": 1e-6, "weight_decay": 0.0})
        layer: Any = module.parts[1].layers[0]
        weight = layer.self_attn.q_proj.weight
        before = weight.detach().clone()
        optimizer = module.optimization.make_optimizer(module.parts)
        module(IDS_BT).logits.float().sum().backward()
        optimizer.step()
        moved[dtype] = float((weight != before).float().mean())
    assert moved[None] > 0.99 and moved["bfloat16"] < 0.1
