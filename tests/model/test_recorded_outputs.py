"""Hidden states and attentions of all layers are the unsplit model's, or they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from splitlearn.model import ComposedCausalLM, ModelFactory
from tests.architectures.catalogue import tiny_model
from tests.tiny_models import token_ids

BOTH = ("output_hidden_states", "output_attentions")


def both(architecture: str, folder: Path, cut: tuple[int, int] = (2, 4), **config: Any) -> tuple[Any, ComposedCausalLM]:
    tiny_model(architecture).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attn_implementation": "eager"} | config))
    parts = ModelFactory.create_split_models(None, folder, *cut, low_memory=True)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), ComposedCausalLM(*parts)


@pytest.mark.parametrize(
    ("architecture", "cut"), [("llama", (2, 4)), ("llama", (0, 3)), ("gpt2", (3, 3)), ("bert", (2, 4)), ("bamba", (2, 4))]
)
def test_what_hooks_on_the_layers_record_is_the_unsplit_models(architecture: str, cut: tuple[int, int], tmp_path: Path) -> None:
    whole, split = both(architecture, tmp_path, cut)
    with torch.no_grad():
        expected = whole(token_ids(), use_cache=False, **dict.fromkeys(BOTH, True))
        found = split(token_ids(), **dict.fromkeys(BOTH, True))
    for output in ("hidden_states", "attentions"):
        assert len(expected[output]) == len(found[output]) > 0
        assert all(torch.equal(*pair) for pair in zip(expected[output], found[output], strict=True))


@pytest.mark.parametrize("argument", BOTH)
@pytest.mark.parametrize("architecture", ["bloom", "opt", "bart", "megatron-bert"])
def test_what_a_model_collects_itself_is_refused(architecture: str, argument: str, tmp_path: Path) -> None:
    _, split = both(architecture, tmp_path)
    with pytest.raises(ValueError, match=f"^{argument} is True, but .* outside its layers"):
        split(token_ids(), **{argument: True})
    with pytest.raises(ValueError, match=f"^{argument} is True"):
        split.generate(token_ids(), max_new_tokens=2, return_dict_in_generate=True, **{argument: True})
    assert split(token_ids(), **{argument: False}).logits is not None


def test_what_the_configuration_asks_for_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="output_hidden_states of the model's configuration is True"):
        both("bloom", tmp_path, output_hidden_states=True)


def test_a_choice_of_layers_and_a_top_without_layers_are_refused(tmp_path: Path) -> None:
    _, split = both("llama", tmp_path)
    with pytest.raises(ValueError, match=r"output_hidden_states is \[1\], but a part counts its layers"):
        split(token_ids(), output_hidden_states=[1])
    _, split = both("llama", tmp_path, (0, 6))
    with pytest.raises(ValueError, match="a top without layers"):
        split(token_ids(), output_hidden_states=True)
