"""Adapters beside quantized weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitlearn.app import compose, export, train
from splitlearn.checkpoint import CheckpointError
from splitlearn.training import SplitCausalLM
from tests.training.test_module import batches, fit

LORA = {"method": "lora", "settings": {"r": 2, "target_modules": "all-linear"}}


def test_adapters_in_every_part_learn_and_quantized_weights_stay(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4, peft=LORA, quantization="int8")
    module.load_parts()
    quantized = {name: each for name, each in module.named_parameters() if type(each.data) is not torch.Tensor}
    assert {name.split(".")[1] for name in quantized} == {"bottom", "trunk", "top"}
    before = {name: each.dequantize().clone() for name, each in quantized.items()}
    fit(module, batches([3, 2, 3]), tmp_path)
    for name, each in quantized.items():
        assert torch.equal(each.dequantize(), before[name])
    learned = [each for name, each in module.named_parameters() if "lora_B" in name]
    assert learned
    assert all(each.abs().max() > 0 for each in learned)


def test_a_run_with_quantized_weights_is_exported_with_all_their_digits(tmp_path: Path) -> None:
    short = ["trainer.max_steps=2", "data.max_train_blocks=16", "data.max_val_blocks=4", "verbose=false"]
    train(compose("model.quantization=int8", "peft=lora", *short), folder=tmp_path / "run")
    assert not (tmp_path / "run" / "parts").exists()
    with pytest.raises(CheckpointError, match="quantization is int8 and None"):
        train(
            compose("peft=lora", f"ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}", *short),
            folder=tmp_path / "other",
        )
    export(compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", config_name="export"))
    assert (tmp_path / "out" / "config.json").is_file()
    assert "quantization" not in (tmp_path / "out" / "config.json").read_text()


def test_four_bits_learn_though_they_were_evaluated_before(tmp_path: Path) -> None:
    short = ["trainer.max_steps=8", "data.max_train_blocks=64", "data.max_val_blocks=4", "verbose=false"]
    result = train(compose("model.quantization=nf4", "peft=lora", *short), folder=tmp_path / "run")
    assert result.metrics["val_loss_after"] < result.metrics["val_loss_before"]
    for part in result.module.parts:
        assert any(type(each).__name__ == "Params4bit" for each in part.parameters())
        assert all(each.abs().max() > 0 for name, each in part.named_parameters() if "lora_B" in name)
    export(compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", config_name="export"))
    assert "quantization" not in (tmp_path / "out" / "config.json").read_text()


def test_adapters_that_cannot_stand_beside_quantized_weights_are_told_before_training(tmp_path: Path) -> None:
    settings = ["peft=custom", "peft.method=loha", "peft.settings={target_modules: [q_proj]}", "model.quantization=nf4"]
    with pytest.raises(ValueError, match=r"these adapters cannot stand beside model.layers.0.self_attn.q_proj as it is stored"):
        train(compose(*settings, "verbose=false"), folder=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"all three are trained in full; take peft=lora"),
        ({"optimizer": {"parts": {"trunk": {"train": "norms"}}}}, r"not for biases or norms of trunk"),
    ],
)
def test_weights_that_are_trained_are_not_quantized(
    settings: dict[str, object], message: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match=message):
        SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4, quantization="int8", **settings).load_parts()  # type: ignore[arg-type]
