"""Hidden states and attentions of all layers are the unsplit model's, or they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from splitlearn.boundary import CallKind, Handover
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM, Finished
from tests.architectures.catalogue import tiny_model
from tests.tiny_models import token_ids

BOTH = ("output_hidden_states", "output_attentions")


def both(architecture: str, folder: Path, cut: tuple[int, int] = (2, 4), **config: Any) -> tuple[Any, ComposedCausalLM]:
    tiny_model(architecture).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attn_implementation": "eager"} | config))
    parts = ModelFactory.create_split_models(None, folder, *cut, low_memory=True)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), ComposedCausalLM(*parts)


def check_equal(whole: Any, split: ComposedCausalLM, *outputs: str) -> None:
    asked = {f"output_{output}": True for output in outputs}
    with torch.no_grad():
        expected = whole(token_ids(), use_cache=False, **asked)
        found = split(token_ids(), **asked)
    for output in outputs:
        assert len(expected[output]) == len(found[output]) > 0
        assert all(torch.equal(*pair) for pair in zip(expected[output], found[output], strict=True)), output


@pytest.mark.parametrize(
    ("architecture", "cut"),
    [
        ("llama", (2, 4)),
        ("llama", (0, 3)),
        ("llama", (0, 6)),
        ("llama", (0, 0)),
        ("gpt2", (3, 3)),
        ("gpt2", (1, 5)),
        ("bert", (2, 4)),
        ("bamba", (2, 4)),
        # These collect them in their own loop over the layers; the first trunk entry is then of the stand-in's shape alone.
        ("bloom", (2, 4)),
        ("bloom", (0, 6)),
        ("opt", (2, 4)),
        ("opt", (3, 3)),
        ("bart", (2, 4)),
        ("megatron-bert", (1, 5)),
        ("whisper", (2, 4)),
    ],
)
def test_hidden_states_and_attentions_are_the_unsplit_models(architecture: str, cut: tuple[int, int], tmp_path: Path) -> None:
    whole, split = both(architecture, tmp_path, cut)
    check_equal(whole, split, "hidden_states", "attentions")


@pytest.mark.parametrize("cut", [(2, 4), (0, 3), (3, 3), (0, 6), (1, 2)])
def test_hidden_states_of_models_that_list_what_leaves_their_layers(cut: tuple[int, int], tmp_path: Path) -> None:
    whole, split = both("mamba", tmp_path, cut)
    check_equal(whole, split, "hidden_states")


def test_they_are_the_unsplit_models_where_the_configuration_asks_for_them(tmp_path: Path) -> None:
    whole, split = both("bloom", tmp_path, output_hidden_states=True)
    with torch.no_grad():
        expected, found = whole(token_ids()).hidden_states, split(token_ids()).hidden_states
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def test_they_are_the_unsplit_models_during_generation(tmp_path: Path) -> None:
    whole, split = both("opt", tmp_path)
    settings: dict[str, Any] = {
        "max_new_tokens": 3,
        "do_sample": False,
        "return_dict_in_generate": True,
        **dict.fromkeys(BOTH, True),
    }
    expected, found = (model.generate(token_ids(), **settings) for model in (whole, split))
    for output in ("hidden_states", "attentions"):
        for step, other in zip(expected[output], found[output], strict=True):
            assert all(torch.equal(*pair) for pair in zip(step, other, strict=True))


def test_gradients_reach_every_part_through_its_hidden_states(tmp_path: Path) -> None:
    whole, split = both("bloom", tmp_path)
    for model in (whole, split):
        hidden_states = model(token_ids(), output_hidden_states=True).hidden_states
        torch.stack([(hidden_BTD**2).sum() for hidden_BTD in hidden_states]).sum().backward()
    names = dict(whole.named_parameters(remove_duplicate=False))
    gradients = [
        (names[part.blueprint.global_name(name, part.spec)].grad, parameter.grad)
        for part in split.parts
        for name, parameter in part.model.named_parameters()
    ]
    pairs = [(one, other) for one, other in gradients if one is not None and other is not None]
    assert len(pairs) > 20
    # Where a hidden state is used twice, the two models add up its gradients in another order.
    assert all(float((one - other).abs().max()) <= 1e-6 * float(one.abs().max()) for one, other in pairs)


def test_a_choice_of_layers_is_refused(tmp_path: Path) -> None:
    _, split = both("llama", tmp_path)
    with pytest.raises(ValueError, match=r"output_hidden_states is \[1\], but a part counts its layers"):
        split(token_ids(), output_hidden_states=[1])
    with pytest.raises(ValueError, match=r"output_attentions of the model's configuration is \[1\]"):
        both("llama", tmp_path, output_attentions=[1])


@pytest.mark.parametrize("argument", BOTH)
def test_a_chain_of_tensors_refuses_what_only_the_parts_below_know(argument: str, tmp_path: Path) -> None:
    _, split = both("llama", tmp_path)
    smashed_BTD = split.trunk(split.bottom(token_ids()))
    with pytest.raises(ValueError, match=f"{argument} is True, but top was called with a tensor"):
        split.top(smashed_BTD, **{argument: True})
    assert split.top(smashed_BTD, **{argument: False}).logits is not None


def test_a_chain_of_tensors_refuses_the_router_loss(tmp_path: Path) -> None:
    whole, split = both("mixtral", tmp_path, output_router_logits=True)
    ids = token_ids()
    smashed_BTD = split.trunk(split.bottom(ids))
    with pytest.raises(ValueError, match="output_router_logits of the model's configuration is True, but top was called"):
        split.top(smashed_BTD, labels=ids)
    assert torch.equal(split(ids, labels=ids).loss, whole(ids, labels=ids).loss)
    handover = cast(Handover, split.run(ids, 0, 1, kind=CallKind.EVALUATE))
    with pytest.raises(ValueError, match="called with a tensor"):
        split.run(handover.parcel, 1, labels=ids)
    assert torch.equal(cast(Finished, split.run(handover, 1, labels=ids)).output.loss, whole(ids, labels=ids).loss)
