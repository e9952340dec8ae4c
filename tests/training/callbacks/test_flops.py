"""Operations are those of the unsplit model, counted by Lightning."""

import csv
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.throughput import measure_flops
from transformers import AutoModelForCausalLM

from splitlearn.app import compose, train
from splitlearn.app.training import TrainResult
from splitlearn.embedded import resolve_model
from splitlearn.training.callbacks import TokenThroughput, find_callback, token_throughput

SHORT = [
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=1",
    "callbacks.throughput.window=3",
    "data.max_train_blocks=64",
    "data.max_val_blocks=4",
    "save_parts=false",
    "verbose=false",
]


def last_logged(folder: Path) -> dict[str, float]:
    """Return of each metric what was logged last."""
    with (folder / "metrics" / "metrics.csv").open(newline="") as file:
        return {name: float(value) for row in csv.DictReader(file) for name, value in row.items() if value}


def throughput_of(result: TrainResult) -> TokenThroughput:
    throughput = find_callback(result.trainer, TokenThroughput)
    assert throughput is not None
    return throughput


def test_they_are_those_of_the_unsplit_model(tmp_path: Path) -> None:
    result = train(compose(*SHORT), folder=tmp_path)
    model = AutoModelForCausalLM.from_pretrained(resolve_model("embedded:qwen2_tiny")).train()
    ids_BT = torch.zeros(8, 128, dtype=torch.int64)
    flops = measure_flops(model, lambda: model(input_ids=ids_BT, labels=ids_BT, use_cache=False), attrgetter("loss"))
    assert throughput_of(result).flops_per_token == flops / ids_BT.numel()
    logged = last_logged(tmp_path)
    assert logged["tflops_per_s"] == pytest.approx(logged["tokens_per_s"] * flops / ids_BT.numel() / 1e12, rel=0.2)
    assert "mfu" not in logged, "nobody says what this CPU can do"


def test_what_is_frozen_and_kept_costs_less(tmp_path: Path) -> None:
    frozen = ["optimizer.parts.bottom.train=false", "optimizer.parts.trunk.train=false", "optimizer.parts.top.train=norms"]
    short = [each for each in SHORT if "max_steps" not in each]
    everything, some, kept = (
        throughput_of(train(compose(*short, "trainer.max_epochs=2", *extra), folder=tmp_path / name)).flops_per_token
        for name, extra in {"all": [], "some": frozen, "kept": [*frozen, "activation_cache=memory"]}.items()
    )
    assert everything and some and kept
    assert kept < some < everything


def test_their_share_of_what_the_devices_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_throughput, "get_available_flops", lambda device, dtype: 2e12)
    train(compose(*SHORT), folder=tmp_path)
    logged = last_logged(tmp_path)
    assert logged["mfu"] == pytest.approx(logged["tflops_per_s"] / 2)


def test_counting_can_be_left_out(tmp_path: Path) -> None:
    result = train(compose(*SHORT, "callbacks.throughput.counts_flops=false"), folder=tmp_path)
    assert throughput_of(result).flops_per_token is None
    assert "tflops_per_s" not in last_logged(tmp_path)


def test_counting_changes_nothing(tmp_path: Path) -> None:
    """A counter around real steps does: torch then computes some of them in another way."""
    losses = []
    for counts in ("true", "false"):
        folder = tmp_path / counts
        result = train(compose(*SHORT, f"callbacks.throughput.counts_flops={counts}"), folder=folder)
        losses.append(result.metrics["val_loss_after"])
        assert all(type(each) is torch.nn.Parameter for each in result.module.parameters())
        assert all(type(each) is torch.Tensor for each in result.module.buffers())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "settings",
    [["peft=lora"], ["gradient_checkpointing=true"], ["compile={backend: eager}"], ["data.packing=isolated"]],
    ids=lambda settings: settings[0],
)
def test_they_are_known_however_one_trains(settings: list[str], tmp_path: Path) -> None:
    plain, other = (
        throughput_of(train(compose(*SHORT, *extra), folder=tmp_path / name)).flops_per_token
        for name, extra in {"plain": [], "other": settings}.items()
    )
    assert plain and other
    if "peft=lora" in settings:
        assert other < plain, "no gradients of frozen weights"
    elif "gradient_checkpointing=true" in settings:
        assert other > plain, "layers are run twice"
    else:
        assert other == plain


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantized_weights_are_multiplied_as_others_are(quantization: str, tmp_path: Path) -> None:
    found = [
        throughput_of(train(compose(*SHORT, "peft=lora", f"model.quantization={each}"), folder=tmp_path / each)).flops_per_token
        for each in ("null", quantization)
    ]
    assert found[0] and found[0] == found[1]
