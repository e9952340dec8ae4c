"""The composed model generates with transformers' own generate, token for token like the unsplit model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    MaxLengthCriteria,
    StaticCache,
    StoppingCriteriaList,
)

from splitlearn.checkpoint import CheckpointError
from splitlearn.loading import ModelFactory, save_parts
from splitlearn.model import ComposedCausalLM, SplitModel
from splitlearn.model.caches import cache_of_part, make_cache
from splitlearn.training import SplitCausalLM
from tests.architectures.catalogue import tiny_model
from tests.tiny_models import token_ids

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_p": 0.9},
    "beams": {"num_beams": 3, "do_sample": False},
    "several of a beam": {"num_beams": 4, "num_return_sequences": 2, "do_sample": False},
    "penalty": {"repetition_penalty": 1.3, "do_sample": False},
    "static cache": {"cache_implementation": "static", "do_sample": False, "disable_compile": True},
    "no cache": {"use_cache": False, "do_sample": False},
    "chunked prompt": {"prefill_chunk_size": 4, "do_sample": False},
}


def both(folder: Path, cut: tuple[int, int] = (2, 4)) -> tuple[Any, ComposedCausalLM]:
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    return whole, ComposedCausalLM(*ModelFactory.create_split_models(None, folder, *cut, low_memory=True))


def left_padded() -> torch.Tensor:
    mask = torch.ones(3, 11, dtype=torch.long)
    mask[0, :4] = mask[1, :1] = 0
    return mask


def generate(model: Any, **settings: Any) -> Any:
    torch.manual_seed(1)
    return model.generate(token_ids(), attention_mask=left_padded(), max_new_tokens=9, pad_token_id=0, **settings)


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("model_type", ["gpt2", "gemma3_text"])
def test_tokens_are_those_of_the_unsplit_model(kind: str, model_type: str, tiny_checkpoint: Callable[..., Path]) -> None:
    whole, split = both(tiny_checkpoint(model_type, tie_word_embeddings=True))
    assert torch.equal(generate(whole, **SETTINGS[kind]), generate(split, **SETTINGS[kind]))


def test_scores_and_hidden_states_of_all_layers_come_along(tiny_checkpoint: Callable[..., Path]) -> None:
    whole, split = both(tiny_checkpoint("llama"))
    asked = {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True, "do_sample": False}
    expected, found = generate(whole, **asked), generate(split, **asked)
    assert all(torch.equal(*pair) for pair in zip(expected.scores, found.scores, strict=True))
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert len(ours) == len(theirs) == 7
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def test_streamers_and_stopping_criteria_are_heard(tiny_checkpoint: Callable[..., Path]) -> None:
    class Streamer:
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.tokens.append(-1)

    _, split = both(tiny_checkpoint("llama"))
    streamer, ids = Streamer(), token_ids(rows=1)
    stop = StoppingCriteriaList([MaxLengthCriteria(14)])
    tokens = split.generate(
        ids, streamer=streamer, stopping_criteria=stop, max_new_tokens=50, do_sample=False, eos_token_id=None
    )
    assert tokens.shape == (1, 14)
    assert streamer.tokens == [*tokens[0].tolist(), -1]


def test_the_checkpoints_own_generation_settings_hold_and_travel_with_saved_parts(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_model("llama")
    model.generation_config.max_new_tokens = 5
    model.generation_config.eos_token_id = None
    model.save_pretrained(tmp_path / "model")
    whole, split = both(tmp_path / "model")
    expected = whole.generate(token_ids())
    assert torch.equal(expected, split.generate(token_ids()))
    assert expected.shape == (3, 16)
    loaded = ComposedCausalLM(*(SplitModel.load(path) for path in save_parts(split.parts, tmp_path / "parts")))
    assert torch.equal(expected, loaded.generate(token_ids()))


def test_generation_settings_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text("{broken")
    with pytest.raises(CheckpointError, match=r"generation_config\.json (cannot be used|is not JSON)"):
        ModelFactory.create_split_models(None, tmp_path, 2, 4, low_memory=True)


def test_settings_that_stand_in_the_models_configuration_hold(tmp_path: Path) -> None:
    """Checkpoints from before generation_config.json."""
    tiny_model("gpt2").save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_length": 15, "no_repeat_ngram_size": 1, "num_beams": 2}))
    whole, split = both(tmp_path)
    expected = whole.generate(token_ids(), pad_token_id=0)
    assert expected.shape == (3, 15)
    assert torch.equal(expected, split.generate(token_ids(), pad_token_id=0))


def test_every_spelling_of_the_arguments_is_transformers_own(tiny_checkpoint: Callable[..., Path]) -> None:
    whole, split = both(tiny_checkpoint("llama"))
    settings = GenerationConfig(max_new_tokens=4, do_sample=False, pad_token_id=0)
    expected = whole.generate(token_ids(), settings)
    assert torch.equal(expected, split.generate(token_ids(), settings))
    assert torch.equal(expected, split.generate(inputs=token_ids(), generation_config=settings))
    assert torch.equal(expected, split.generate(input_ids=token_ids(), generation_config=settings))
    with pytest.raises(ValueError, match="inputs"):
        split.generate(token_ids(), settings, input_ids=token_ids())


def test_drafting_with_the_first_layers_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    _, split = both(tiny_checkpoint("llama"))
    ids = token_ids(rows=1)
    with pytest.raises(ValueError, match=r"assistant_early_exit is 2.*assistant_model"):
        split.generate(ids, assistant_early_exit=2, max_new_tokens=2)
    with pytest.raises(ValueError, match="assistant_early_exit is 3"):
        split.generate(ids, GenerationConfig(assistant_early_exit=3, max_new_tokens=2))


def test_a_module_generates_and_stays_in_training_mode(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("gpt2", tie_word_embeddings=True)
    whole, _ = both(folder)
    module = SplitCausalLM(str(folder), 2, 4)
    module.load_parts()
    assert module.composed.training
    assert torch.equal(generate(whole, do_sample=False), generate(module, do_sample=False))
    assert module.composed.training and all(part.training for part in module.parts)


def test_a_cache_of_its_own_kind_is_refused(tmp_path: Path) -> None:
    tiny_model("minimax").save_pretrained(tmp_path)
    _, split = both(tmp_path)
    with pytest.raises(ValueError, match=r"cache of its own kind.*pass use_cache=False"):
        split.generate(token_ids(), max_new_tokens=2)


def test_unknown_arguments_are_refused_as_transformers_does(tiny_checkpoint: Callable[..., Path]) -> None:
    _, split = both(tiny_checkpoint("llama"))
    with pytest.raises(ValueError, match="nonsense"):
        split.generate(token_ids(), nonsense=1, max_new_tokens=2)


def test_a_part_sees_its_share_of_a_cache(tiny_checkpoint: Callable[..., Path]) -> None:
    _, split = both(tiny_checkpoint("llama"))
    cache = split.make_cache()
    with torch.no_grad():
        split(token_ids(), past_key_values=cache)
    assert cache.get_seq_length() == 11
    trunk = cache_of_part(cache, split.trunk.spec, 11)
    assert isinstance(trunk, DynamicCache)
    assert trunk.layers == cache.layers[2:4]
    with pytest.raises(ValueError, match="make it with the model's configuration"):
        cache_of_part(DynamicCache(), split.top.spec, 0)
    assert isinstance(make_cache(split.trunk.blueprint.config), DynamicCache)


@pytest.mark.parametrize(("model_type", "cut"), [("llama", (2, 4)), ("gpt2", (0, 2))])
def test_a_cache_is_made_where_one_is_asked_for(
    model_type: str, cut: tuple[int, int], tiny_checkpoint: Callable[..., Path]
) -> None:
    """A bottom without layers has no entries in the cache, and numbers new tokens by what it is told of the others."""
    whole, split = both(tiny_checkpoint(model_type), cut)
    with torch.no_grad():
        expected, found = whole(token_ids(), use_cache=True), split(token_ids(), use_cache=True)
        assert found.past_key_values.get_seq_length() == 11
        assert split(token_ids()).past_key_values is None
        following = token_ids(tokens=1, seed=9)
        expected = whole(following, past_key_values=expected.past_key_values).logits
        assert torch.equal(expected, split(following, past_key_values=found.past_key_values).logits)


def test_what_a_cut_model_does_not_take_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    _, split = both(tiny_checkpoint("llama"))
    with pytest.raises(ValueError, match="takes token ids as input_ids, not inputs_embeds"):
        split.generate(inputs_embeds=torch.zeros(1, 3, 64), max_new_tokens=2)
    with pytest.raises(ValueError, match="would leave out what it holds"):
        split(token_ids(), past_key_values=split.make_cache(), use_cache=False)


def test_a_static_cache_keeps_its_kind_in_every_part(tiny_checkpoint: Callable[..., Path]) -> None:
    _, split = both(tiny_checkpoint("llama"))
    cache = StaticCache(config=split.bottom.blueprint.config, max_cache_len=32)
    assert isinstance(cache_of_part(cache, split.top.spec, 0), StaticCache)
