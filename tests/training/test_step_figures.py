"""Learning rate and gradient norm are logged, and change nothing."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf

from splitlearn.app import compose, train
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import TokenThroughput, find_callback
from splitlearn.training.callbacks.progress import BarProgress
from splitlearn.training.optimization import Optimization
from splitlearn.training.step_figures import learning_rates, perplexity

SHORT = ["trainer.max_steps=4", "data.max_train_blocks=32", "data.max_val_blocks=4", "trainer.enable_progress_bar=false"]
SHORT += ["verbose=false", "trainer.log_every_n_steps=2", "save_parts=false"]


class Gradients(Callback):
    """Measures the norm before anything is clipped."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
        self.norms.append(float(torch.cat([each.flatten() for each in gradients]).double().norm()))
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("clipping", ["trainer.gradient_clip_val=0.01", "trainer.gradient_clip_val=null"])
def test_they_are_logged_each_log_step(clipping: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Gradients()
    monkeypatch.setattr(SplitCausalLM, "configure_callbacks", lambda module: [seen])
    train(compose(*SHORT, clipping), folder=tmp_path)
    with (tmp_path / "metrics" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["gradient_norm"]]
    assert [int(row["step"]) for row in rows] == [1, 3]
    # A callback comes before the gradients are scaled to the mean, which with one batch a step changes nothing.
    assert [float(row["gradient_norm"]) for row in rows] == pytest.approx([seen.norms[1], seen.norms[3]], rel=1e-4)
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([seen.rates[1], seen.rates[3]])


def test_rates_of_parts_have_names() -> None:
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(3)]
    rates = {"bottom": 1e-3, "bottom/no_decay": 1e-3, "top": 1e-4}
    groups = [{"params": [w], "name": name, "lr": rate} for w, (name, rate) in zip(weights, rates.items(), strict=True)]
    assert learning_rates(torch.optim.AdamW(groups)) == {"learning_rate/bottom": 1e-3, "learning_rate/top": 1e-4}
    assert learning_rates(torch.optim.SGD(weights, lr=0.1)) == {"learning_rate": 0.1}


@pytest.mark.parametrize(
    ("parts", "adapted", "expected"),
    [
        ({}, ("bottom", "trunk", "top"), (2e-4, None, None)),
        ({"bottom": {"train": False}}, ("trunk", "top"), (2e-4, None, None)),
        ({"trunk": {"train": "full"}}, ("bottom", "top"), (5e-5, 2e-4, None)),
        ({"bottom": {"learning_rate": 1e-3}, "trunk": {"train": "full"}}, ("bottom", "top"), (5e-5, 1e-3, None)),
        ({}, (), (5e-5, None, None)),
    ],
)
def test_adapters_have_a_rate_of_their_own(
    parts: dict[str, Any], adapted: tuple[str, ...], expected: tuple[float | None, ...]
) -> None:
    chosen = Optimization.from_plain({"learning_rate": 5e-5, "parts": parts}).with_adapters(2e-4, adapted, least=5e-5)
    assert (chosen.learning_rate, chosen.of("bottom").learning_rate, chosen.of("trunk").learning_rate) == expected
    assert Optimization.from_plain(chosen.to_plain()) == chosen


def test_the_rate_that_is_used_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = compose(*SHORT, "peft=lora", "model.learning_rate=5e-5", "verbose=true", "trainer.max_steps=1")
    result = train(cfg, folder=tmp_path)
    assert result.module.learning_rate == OmegaConf.load(tmp_path / "config.yaml").optimizer.learning_rate == 2e-4
    assert "learning rate of adapters: 0.0002" in capsys.readouterr().out


def test_lora_from_python_is_lora_of_the_command_line() -> None:
    module = SplitCausalLM("unused", 1, 2, peft={"method": "lora"})
    cfg = compose("peft=lora")
    assert module.adapters.settings == cfg.peft.settings
    assert module.learning_rate == cfg.peft.learning_rate == 2e-4
    assert SplitCausalLM("unused", 1, 2, peft={"method": "lora"}, optimizer={"learning_rate": 1e-5}).learning_rate == 1e-5


def test_counting_operations_is_no_training_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = SplitCausalLM.flops_of

    def slow(module: SplitCausalLM, batch: Any) -> int | None:
        if module.trainer.global_step == 0 and not module._loaded.step.is_under_way:
            time.sleep(3)
        return counted(module, batch)

    monkeypatch.setattr(SplitCausalLM, "flops_of", slow)
    result = train(compose(*SHORT), folder=tmp_path)
    throughput = find_callback(result.trainer, TokenThroughput)
    assert throughput is not None
    assert throughput.counting_s >= 3
    assert result.metrics["train_tokens"] / result.metrics["tokens_per_s"] < result.metrics["train_s"]


def test_the_bar_shows_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lightning.pytorch.callbacks.RichProgressBar.get_metrics", lambda *args: {"v_num": "rics", "train_loss": 1.0}
    )
    assert BarProgress().get_metrics(None, None) == {"train_loss": 1.0}  # type: ignore[arg-type]


def test_perplexity_of_a_broken_run_is_infinite() -> None:
    assert perplexity(torch.tensor(2.0)) == pytest.approx(math.exp(2.0))
    assert perplexity(torch.tensor(1e4)) == math.inf
