"""Quantized parts are what transformers makes of the unsplit model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from splitlearn.embedded import resolve_model
from splitlearn.loading import ModelFactory
from splitlearn.loading.quantization import quantization_config
from splitlearn.model import ComposedCausalLM
from splitlearn.model.quantized import is_quantized
from tests.architectures.catalogue import tiny_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("quantization", "kind"), [("int8", TorchAoConfig), ("nf4", BitsAndBytesConfig)])
def test_logits_are_those_of_the_quantized_unsplit_model(quantization: str, kind: type, dtype: torch.dtype) -> None:
    # bitsandbytes wants larger matrices than those of the smallest models.
    folder = resolve_model("embedded:qwen2_tiny")
    config = quantization_config(quantization)
    assert isinstance(config, kind)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config)
    parts = ModelFactory.create_split_models(None, folder, 2, 6, low_memory=True, dtype=dtype, quantization=quantization)
    plain = ModelFactory.create_split_models(None, folder, 2, 6, low_memory=True, dtype=dtype)
    # Before they run: bitsandbytes may then rewrite weights and scales for the processor.
    assert parts[1].num_parameters == plain[1].num_parameters
    # The trunk is nothing but linear layers, whose scales count too, and norms.
    linear = [each for each in plain[1].modules() if isinstance(each, torch.nn.Linear)]
    values, rows = sum(each.weight.numel() for each in linear), sum(each.out_features for each in linear)
    held = {"int8": values + rows * dtype.itemsize, "nf4": values * (0.5 + 4 / 64)}[quantization]
    assert parts[1].weight_bytes == pytest.approx(plain[1].weight_bytes - values * dtype.itemsize + held, rel=0.02)
    ids = torch.randint(3, 50, (2, 7))
    with torch.no_grad():
        expected, found = whole(ids).logits, ComposedCausalLM(*parts)(ids).logits
        assert torch.equal(found, expected)
        assert not torch.equal(found, ComposedCausalLM(*plain)(ids).logits)


@pytest.mark.parametrize("model_type", ["mpt", "falcon", "phi"])
def test_parts_quantize_what_the_unsplit_model_does(model_type: str, tmp_path: Path) -> None:
    """transformers leaves out the module that a model ends with, which a part may end with elsewhere."""
    tiny_model(model_type).save_pretrained(tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantization_config("int8"))
    expected = {name for name, each in whole.named_parameters() if is_quantized(each)}
    loaded = ModelFactory.load_parts(tmp_path, 2, 4, quantization="int8")
    found = {
        part.blueprint.global_name(name, part.spec)
        for part in loaded.parts.values()
        for name, each in part.model.named_parameters()
        if is_quantized(each)
    }
    assert found == expected


def test_what_is_trained_is_left_alone(tiny_checkpoint: Callable[..., Path]) -> None:
    loaded = ModelFactory.load_parts(tiny_checkpoint("llama"), 2, 4, trained=["top"], quantization="int8")
    assert {type(each) for each in loaded["top"].parameters()} == {torch.nn.Parameter}
    assert {type(each) for each in loaded["trunk"].parameters()} != {torch.nn.Parameter}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("int3", r"^quantization is 'int3'; use int8, nf4, or settings with quant_method"),
        ({"bits": 4}, r"^quantization\.quant_method is None; use one of torchao, bitsandbytes"),
        (
            {"quant_method": "torchao", "quant_type": "Nothing"},
            r"quant_type is 'Nothing'; name a class of torchao\.quantization",
        ),
        ({"quant_method": "torchao", "quant_type": "Int8WeightOnlyConfig", "bits": 2}, r"cannot be used: .*bits"),
    ],
)
def test_settings_that_cannot_be(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantization_config(settings)


def test_a_whole_model_is_not_quantized(tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="quantization needs low_memory=True"):
        ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 2, 4, quantization="int8")
