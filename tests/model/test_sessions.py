"""Tokens generated through a trunk that another party holds are those of one process; its cache stays with that party."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM, LocalSession, SplitModel
from splitlearn.parties.remote_part import RemotePart
from splitlearn.randomness import NamedGenerators
from splitlearn.training import TrainingSettings
from tests.model.test_generation import SETTINGS, generate
from tests.tiny_models import token_ids
from tests.training.stand_in import generations, stand_in

KINDS = {name: SETTINGS[name] for name in ("greedy", "sampled", "several of a beam", "no cache", "chunked prompt")}
# Draft tokens that are refused are cut off the cache again.
KINDS["drafts from the prompt"] = {"prompt_lookup_num_tokens": 2, "do_sample": False}


def both(folder: Path, cut: tuple[int, int]) -> tuple[ComposedCausalLM, ComposedCausalLM, RemotePart]:
    parts = ModelFactory.create_split_models(None, folder, *cut, low_memory=True)
    trunk, _ = stand_in(folder, cut, TrainingSettings(), NamedGenerators(0))
    return ComposedCausalLM(*parts), ComposedCausalLM(parts[0], cast(SplitModel, trunk), parts[2]).eval(), trunk


def draw(model: ComposedCausalLM, kind: str) -> Any:
    if "prompt_lookup_num_tokens" in KINDS[kind]:
        # transformers drafts for one row alone.
        return model.generate(token_ids()[:1].repeat(1, 3), max_new_tokens=9, pad_token_id=0, **KINDS[kind])
    return generate(model, **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ["gpt2", "gemma3_text"])
def test_tokens_are_those_of_one_process(kind: str, model_type: str, tiny_checkpoint: Callable[..., Path]) -> None:
    one, divided, trunk = both(tiny_checkpoint(model_type, tie_word_embeddings=True), (2, 4))
    assert torch.equal(draw(one, kind), draw(divided, kind))
    gc.collect()
    assert not generations(trunk), "they end with the generation"


@pytest.mark.parametrize("cut", [(0, 4), (2, 2), (0, 6)])
def test_any_cut_will_do(cut: tuple[int, int], tiny_checkpoint: Callable[..., Path]) -> None:
    one, divided, _ = both(tiny_checkpoint("llama"), cut)
    for kind in ("greedy", "several of a beam"):
        assert torch.equal(draw(one, kind), draw(divided, kind))


def test_keys_and_values_stay_with_the_holder(tiny_checkpoint: Callable[..., Path]) -> None:
    one, divided, trunk = both(tiny_checkpoint("llama"), (2, 4))
    caches = [model.make_cache() for model in (one, divided)]
    with torch.no_grad():
        for ids_BT in token_ids().split([5, 1, 5], dim=1):
            outputs = [model(ids_BT, past_key_values=cache) for model, cache in zip((one, divided), caches, strict=True)]
            assert torch.equal(outputs[0].logits, outputs[1].logits)
    (session,) = generations(trunk).values()
    assert session.num_cached_tokens == caches[1].get_seq_length() == 11
    layers: list[Any] = caches[1].layers
    assert [layer.keys is None for layer in layers] == [False, False, True, True, False, False]
    with pytest.raises(RuntimeError, match="held by another party"):
        layers[2].update(torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="holds 11 tokens in the layers of the trunk, which another party holds"):
        divided(token_ids(), past_key_values=caches[0])


def test_a_kind_of_cache_that_the_holder_does_not_keep_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    _, divided, _ = both(tiny_checkpoint("llama"), (2, 4))
    with pytest.raises(ValueError, match="kind StaticLayer, but the party that holds the trunk keeps DynamicLayer"):
        generate(divided, **SETTINGS["static cache"])


def test_a_session_that_has_ended_cannot_be_used(tiny_checkpoint: Callable[..., Path]) -> None:
    (part,) = ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 2, 4, low_memory=True)[1:2]
    session = LocalSession(part)
    with pytest.raises(ValueError, match="'update' is no change of a cache"):
        session.change("update")
    session.end()
    with pytest.raises(ValueError, match="this session has ended"):
        session.change("reset")
