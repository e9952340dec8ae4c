"""A head that a model ties to its embedding, as a tensor of its own; and the end of a tie that is elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from splitlearn.loading import ModelFactory, ModelRequest, save_parts
from splitlearn.model import ComposedCausalLM, SplitModel, UnsupportedModelError, find_ties
from tests.architectures import catalogue
from tests.loading.test_request import write_one_shard_a_part
from tests.tiny_models import token_ids

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def load_untied(folder: Path, **settings: Any) -> ComposedCausalLM:
    settings = {"low_memory": True, **settings}
    return ComposedCausalLM(*ModelFactory.create_split_models(None, folder, 2, 4, untie=True, **settings))


def unsplit_untied(folder: Path) -> Any:
    """The unsplit model with ``tie_word_embeddings=False``, its head a copy of the embedding."""
    whole: Any = AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=False)
    whole.get_output_embeddings().weight = nn.Parameter(whole.get_input_embeddings().weight.detach().clone())
    return whole


@pytest.mark.parametrize("low_memory", [True, False])
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma3_text", "opt"])
def test_training_two_tensors_equals_the_unsplit_models(
    model_type: str, low_memory: bool, tiny_checkpoint: Callable[..., Path]
) -> None:
    folder = tiny_checkpoint(model_type, tie_word_embeddings=True)
    split, whole = load_untied(folder, low_memory=low_memory, trained=["bottom", "trunk", "top"]), unsplit_untied(folder)
    assert not find_ties(split.parts)
    assert split.bottom.blueprint.config.tie_word_embeddings is False
    for model in (whole, split):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(3)
        for seed in range(3):
            ids = token_ids(seed=seed)
            model.train()(ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    tensors = {name: tensor for part in split.parts for name, tensor in part.named_tensors().items()}
    expected = whole.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items() if name in expected)
    assert expected.keys() <= tensors.keys()
    embedding, head = (module.weight for module in (whole.get_input_embeddings(), whole.get_output_embeddings()))
    assert not torch.equal(embedding, head), "they are trained apart"


@pytest.mark.parametrize("low_memory", [True, False])
def test_the_copy_is_of_what_transformers_makes_of_the_embedding(low_memory: bool, tmp_path: Path) -> None:
    # Youtu clears the padding row of its embedding after loading.
    catalogue.tiny_model("youtu", tie_word_embeddings=True).save_pretrained(tmp_path)
    whole, split = unsplit_untied(tmp_path), load_untied(tmp_path, low_memory=low_memory)
    head = split.top.model.lm_head.weight
    assert not head[whole.config.pad_token_id].any()
    assert torch.equal(head, whole.get_output_embeddings().weight)


def test_of_frozen_parts_too_each_has_a_tensor_of_its_own(tiny_checkpoint: Callable[..., Path]) -> None:
    split = load_untied(tiny_checkpoint("llama", tie_word_embeddings=True))
    embedding, head = split.bottom.model.model.embed_tokens.weight, split.top.model.lm_head.weight
    assert torch.equal(embedding, head)
    with torch.no_grad():
        head += 1
    assert not torch.equal(embedding, head)


def test_a_head_that_is_stored_keeps_its_values(tmp_path: Path) -> None:
    split = load_untied(write_one_shard_a_part(tmp_path, head="other"))
    assert not torch.equal(split.bottom.model.model.embed_tokens.weight, split.top.model.lm_head.weight)


def test_a_model_without_ties_is_as_it_was(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("llama", tie_word_embeddings=False)
    split, whole = load_untied(folder), AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(split(token_ids()).logits, whole(token_ids(), use_cache=False).logits)


def test_saved_parts_stay_untied(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    split = load_untied(tiny_checkpoint("llama", tie_word_embeddings=True))
    with torch.no_grad():
        split.top.model.lm_head.weight += 1
    save_parts(split.parts, tmp_path)
    again = ModelFactory.load_saved_parts(tmp_path)
    assert torch.equal(again.top.model.lm_head.weight, split.top.model.lm_head.weight)
    assert torch.equal(again.bottom.model.model.embed_tokens.weight, split.bottom.model.model.embed_tokens.weight)


@pytest.mark.parametrize("untied", ["bottom", "top"])
def test_a_tied_end_and_an_untied_one_are_not_of_one_model(
    untied: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("llama", tie_word_embeddings=True)
    parts = [ModelFactory.load_parts(folder, 2, 4, [name], untie=name == untied)[name] for name in ("bottom", "trunk", "top")]
    with pytest.raises(ValueError, match=r"bottom and top are not of one model: lm_head\.weight is tied in one of them"):
        ComposedCausalLM(*parts)
    save_parts(parts, tmp_path)
    with pytest.raises(ValueError, match=r"lm_head\.weight is tied in one of them and a parameter of its own in the other"):
        ModelFactory.load_saved_parts(tmp_path)


def test_what_is_untied_is_another_request(tiny_checkpoint: Callable[..., Path]) -> None:
    opened = ModelRequest(tiny_checkpoint("llama", tie_word_embeddings=True), 2, 4).open()
    with pytest.raises(ValueError, match="make a ModelRequest with untie=True"):
        opened.revise(untie=True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["bottom"], {EMBEDDING: HEAD}),
        (["top"], {HEAD: EMBEDDING}),
        (["trunk"], {}),
        (["bottom", "top"], {}),
    ],
)
def test_a_receipt_names_the_end_of_a_tie_that_is_elsewhere(
    names: list[str], expected: dict[str, str], tiny_checkpoint: Callable[..., Path]
) -> None:
    folder = tiny_checkpoint("llama", tie_word_embeddings=True)
    receipt = ModelFactory.load_parts(folder, 2, 4, names).receipt
    assert receipt.tied_elsewhere == receipt.to_dict()["tied_elsewhere"] == expected
    assert ("tied to" in str(receipt.table().caption)) == bool(expected)
    assert not ModelFactory.load_parts(folder, 2, 4, names, untie=True).receipt.tied_elsewhere


def test_an_untied_part_is_loaded_alone(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("llama", tie_word_embeddings=True)
    top: SplitModel = ModelFactory.load_parts(folder, 2, 4, ["top"], untie=True)["top"]
    whole: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(top.model.lm_head.weight, whole.get_input_embeddings().weight)


def test_a_model_that_ties_come_what_may_is_refused(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No class of transformers does so now.
    monkeypatch.setattr("splitlearn.loading.opening.untie", lambda config: config)
    with pytest.raises(
        UnsupportedModelError, match=r"lm_head\.weight cannot be untied: LlamaForCausalLM ties it to model\.embed"
    ):
        load_untied(tiny_checkpoint("llama", tie_word_embeddings=True))
