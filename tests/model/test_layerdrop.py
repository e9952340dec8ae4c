"""Models that leave out layers at random while they are trained, each layer of a part among them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from tests.architectures.catalogue import tiny_model
from tests.tiny_models import token_ids


@pytest.mark.parametrize("architecture", ["opt", "bart", "xglm", "whisper"])
@pytest.mark.parametrize("cut", [(2, 3), (1, 5)])
def test_losses_and_gradients_are_the_unsplit_models_from_the_same_seed(
    architecture: str, cut: tuple[int, int], tmp_path: Path
) -> None:
    # Names of the rate differ.
    rates = {"layerdrop": 0.6} | ({"decoder_layerdrop": 0.6} if architecture in ("bart", "whisper") else {})
    tiny_model(architecture, **rates).save_pretrained(tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path).train()
    parts = ModelFactory.create_split_models(None, tmp_path, *cut, low_memory=True)
    split = ComposedCausalLM(*parts).train()
    skipped = 0
    for seed in range(8):
        losses = []
        for model in (whole, split):
            torch.manual_seed(seed)
            model.zero_grad(set_to_none=True)
            loss = model(token_ids(), labels=token_ids(), use_cache=False).loss
            loss.backward()
            losses.append(loss.detach())
        assert torch.equal(*losses)
        gradients = {name: parameter.grad for name, parameter in whole.named_parameters(remove_duplicate=False)}
        for part in parts:
            for name, parameter in part.model.named_parameters():
                expected = gradients[part.blueprint.global_name(name, part.spec)]
                assert (expected is None) == (parameter.grad is None)
                if expected is not None and parameter.grad is not None:
                    assert torch.equal(expected, parameter.grad)
            skipped += bool(part.layers) and all(each.grad is None for each in part.layers.parameters())
    assert skipped, "no part was left out"


def test_no_seed_makes_a_model_one_that_cannot_be_cut(tmp_path: Path) -> None:
    tiny_model("opt", layerdrop=0.999).save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    for seed in range(3):
        torch.manual_seed(seed)
        ModelFactory.load_parts(tmp_path, 2, 4, parts=["trunk"])
    torch.random.set_rng_state(state)
