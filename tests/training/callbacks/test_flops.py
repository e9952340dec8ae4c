"""Operations are those of the unsplit model, counted by Lightning."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.throughput import measure_flops
from transformers import AutoModelForCausalLM

from splitlearn.app import compose, train
from splitlearn.app.training import TrainResult
from splitlearn.embedded import resolve_model
from splitlearn.training.callbacks import TokenThroughput, token_throughput

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
    return next(each for each in result.trainer.callbacks if isinstance(each, TokenThroughput))


def test_they_are_those_of_the_unsplit_model(tmp_path: Path) -> None:
    result = train(compose(*SHORT), folder=tmp_path)
    model = AutoModelForCausalLM.from_pretrained(resolve_model("embedded:qwen2_tiny")).train()
    ids_BT = torch.zeros(8, 128, dtype=torch.int64)
    flops = measure_flops(model, lambda: model(input_ids=ids_BT, labels=ids_BT, use_cache=False), lambda output: output.loss)
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


def test_a_failed_batch_ends_the_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no step")

    monkeypatch.setattr("splitlearn.training.module.SplitCausalLM.training_step", fail)
    with pytest.raises(RuntimeError, match="no step"):
        train(compose(*SHORT), folder=tmp_path)
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
