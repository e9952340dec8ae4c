from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from splitlearn.data import isolate
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from splitlearn.training.trials.isolation import keeps_rows_apart
from tests.architectures.catalogue import VOCAB_SIZE, tiny_model


def composed(architecture: str, folder: Path, **changes: Any) -> ComposedCausalLM:
    tiny_model(architecture, **changes).save_pretrained(folder)
    return ComposedCausalLM(*ModelFactory.create_split_models(None, folder, 2, 4))


# Rotary, learned and sliding-window positions.
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text", "qwen2"])
def test_rows_side_by_side_are_what_they_are_alone(architecture: str, tmp_path: Path) -> None:
    model = composed(architecture, tmp_path)
    rows = [torch.randint(3, VOCAB_SIZE, (length,)).tolist() for length in (7, 4, 2)]
    block = isolate(Dataset.from_dict({"input_ids": rows, "labels": rows}), 14, pad_token_id=0).with_format("torch")[0]
    with torch.no_grad():
        found = model(block["input_ids"][None], position_ids=block["position_ids"][None]).logits[0]
        alone = torch.cat([model(torch.tensor([row])).logits[0] for row in rows])
    assert torch.allclose(found[: len(alone)], alone, atol=1e-5)
    assert keeps_rows_apart(model.parts)


def test_a_router_loss_is_none_of_the_trial(tmp_path: Path) -> None:
    assert keeps_rows_apart(composed("mixtral", tmp_path, output_router_logits=True).parts)


@pytest.mark.parametrize("architecture", ["falcon_mamba", "bloom"])
def test_a_model_whose_rows_see_each_other_is_found(architecture: str, tmp_path: Path) -> None:
    assert not keeps_rows_apart(composed(architecture, tmp_path).parts)
