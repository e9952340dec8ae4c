"""Models of one or two layers, whose pattern of layers may lack a kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from tests.architectures.catalogue import ARCHITECTURES, tiny_model
from tests.tiny_models import token_ids


@pytest.mark.parametrize(("num_layers", "cut"), [(1, (0, 1)), (1, (1, 1)), (2, (1, 1)), (2, (1, 2)), (2, (0, 1))])
@pytest.mark.parametrize("architecture", sorted({"lfm3", "lfm2"} & set(ARCHITECTURES)))
def test_few_layers_are_the_unsplit_model(architecture: str, num_layers: int, cut: tuple[int, int], tmp_path: Path) -> None:
    """LFM3's first layers are convolutions only, and nothing asks its rotary embeddings."""
    tiny_model(architecture, num_hidden_layers=num_layers).save_pretrained(tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    split = ComposedCausalLM(*ModelFactory.create_split_models(None, tmp_path, *cut, low_memory=True))
    with torch.no_grad():
        assert torch.equal(whole(token_ids(), use_cache=False).logits, split(token_ids()).logits)
