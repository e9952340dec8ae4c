"""Attacks watch a training and change nothing of it."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger

from splitlearn.attacks import BACKWARD, collect, collect_embedding_gradients, collect_responses
from splitlearn.boundary import CallKind
from splitlearn.model import ComposedCausalLM
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import Attacks, ExactResume, PartBytes, RunFigures, StepPhases, TokenThroughput, Traffic
from splitlearn.training.callbacks.exact_resume import read_generators
from splitlearn.training.callbacks.undisturbed import undisturbed
from tests.tiny_models import token_ids
from tests.training.test_module import loader, trainer

Tiny = Callable[..., Path]
MIB = 2**20
TAKEN_MIB = 400
SLEPT_S = 0.3
DATA = [{"input_ids": ids, "labels": ids} for ids in (token_ids(2, 9, seed) for seed in range(4))]


def rude_suite(composed: ComposedCausalLM) -> Mapping[str, Any]:
    """Draw from every generator, take memory and time, leave modes and gradients of its own, and record all that crosses."""
    torch.rand(3), np.random.rand(3), random.random()
    assert composed.generators is not None
    composed.generators.generator("cut_1/activation").manual_seed(1)
    composed.generators.generator("an attack's own")
    collect(composed, token_ids(2, 9), 1)
    collect(composed, token_ids(2, 9), 2, BACKWARD)
    collect_responses(composed, token_ids(2, 5), 2, 3)
    collect_embedding_gradients(composed, token_ids(2, 9), 1)
    taken = torch.ones(TAKEN_MIB * MIB // 4)
    time.sleep(SLEPT_S)
    composed.train()
    return {"headline": {"token_recovery": float(taken[0]) / 2, "rouge_l": None}, "attacks": []}


class Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


class Fitted:
    """A short training with dropout and accumulated batches, and all that a run reports of it."""

    def __init__(self, checkpoint: Path, folder: Path, attacks: Attacks | None = None, **settings: Any) -> None:
        torch.manual_seed(4), np.random.seed(4), random.seed(4)
        module = SplitCausalLM(str(checkpoint), 2, 4)
        self.losses, self.figures, self.traffic = Losses(), RunFigures(), Traffic()
        self.bytes, self.phases, self.throughput = PartBytes(), StepPhases(), TokenThroughput(counts_flops=False)
        reporting = [self.figures, self.traffic, self.bytes, self.phases, self.throughput]
        self.trainer = trainer(
            folder,
            callbacks=[*reporting, ExactResume(), self.losses, *([attacks] if attacks else [])],
            max_epochs=2,
            accumulate_grad_batches=2,
            **settings,
        )
        module.load_parts()
        before = psutil.Process().memory_info().rss
        with module.tracker:
            self.trainer.fit(module, loader(DATA))
        self.figures.stop()
        self.peak_mib = (module.tracker.peak_rss_bytes - before) / MIB
        self.module, self.modes = module, {name: each.training for name, each in module.named_modules()}
        self.generators = read_generators()


def watching(suite: Any = rude_suite, **settings: Any) -> Attacks:
    attacks = Attacks(**settings)
    attacks.suite = suite
    return attacks


@pytest.fixture(scope="module")
def attacks() -> Attacks:
    return watching(every_n_epochs=1)


@pytest.fixture(scope="module")
def watched(tiny_checkpoint: Tiny, attacks: Attacks, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("watched")
    return Fitted(tiny_checkpoint("llama"), folder, attacks, logger=CSVLogger(folder, name="", version=""))


def test_training_with_and_without_attacks_is_equal(watched: Fitted, tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    alone = Fitted(tiny_checkpoint("llama"), tmp_path, logger=CSVLogger(tmp_path, name="", version=""))
    assert watched.losses.losses == alone.losses.losses and len(alone.losses.losses) == 8
    expected = dict(alone.module.named_parameters())
    assert all(torch.equal(parameter, expected[name]) for name, parameter in watched.module.named_parameters())
    assert str(watched.generators) == str(alone.generators)
    assert str(watched.module.generators.state()) == str(alone.module.generators.state())
    assert watched.modes == alone.modes
    for kind in CallKind:
        assert watched.module.composed.meter.totals(kind) == alone.module.composed.meter.totals(kind)
    assert watched.bytes.parts == alone.bytes.parts
    phases = watched.phases.summary(), alone.phases.summary()
    assert phases[0] is not None and phases[1] is not None and phases[0]["num_steps"] == phases[1]["num_steps"] == 3
    assert watched.throughput.num_tokens == alone.throughput.num_tokens


def test_seconds_and_memory_of_attacks_are_none_of_the_run(watched: Fitted, attacks: Attacks) -> None:
    seconds = [result["seconds"] for result in attacks.results]
    assert min(seconds) > SLEPT_S
    phases, rate = watched.phases.summary(), watched.throughput.tokens_per_s
    assert phases is not None and phases["step"]["p99_s"] < min(seconds)
    assert rate is not None and watched.throughput.num_tokens / rate < sum(seconds) / 2
    assert watched.figures.train_s < sum(seconds) / 2
    assert watched.peak_mib < TAKEN_MIB / 2


def test_when_it_attacks(watched: Fitted, attacks: Attacks) -> None:
    moments = [(result["moment"], result["step"]) for result in attacks.results]
    assert moments == [("before", 0), ("epoch", 2), ("epoch", 4), ("after", 4)]
    assert all(result["headline"]["token_recovery"] == 0.5 for result in attacks.results)


def test_figures_are_logged_under_their_step(watched: Fitted) -> None:
    with (Path(watched.trainer.default_root_dir) / "metrics.csv").open() as file:
        rows = [(row["step"], row["attack/token_recovery"]) for row in csv.DictReader(file) if row["attack/token_recovery"]]
    assert rows == [("0", "0.5"), ("2", "0.5"), ("4", "0.5"), ("4", "0.5")]


def test_the_time_limit_of_a_run_does_not_count_attacks(watched: Fitted) -> None:
    timer = Timer(duration={"seconds": 100})
    limited = trainer(Path(watched.trainer.default_root_dir), callbacks=[timer])
    timer.on_train_start(limited, watched.module)
    with undisturbed(limited, watched.module):
        time.sleep(SLEPT_S)
    assert timer.time_elapsed() < SLEPT_S / 3


def test_a_resumed_run_keeps_what_was_found_and_attacks_nothing_again(watched: Fitted, attacks: Attacks) -> None:
    resumed = watching(after=False)
    resumed.load_state_dict(attacks.state_dict())
    expected = ["before", "epoch", "epoch"]
    assert [result["moment"] for result in resumed.results] == expected, "an earlier start's end is no end any more"
    resumed.on_train_start(watched.trainer, watched.module)
    assert len(resumed.results) == 3, "no first step is ahead of a run that goes on"


def test_an_attack_that_fails_is_noted_and_training_goes_on(
    tiny_checkpoint: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(composed: ComposedCausalLM) -> Mapping[str, Any]:
        raise RuntimeError("no memory\nleft")

    attacks = watching(fail, after=False)
    watched = Fitted(tiny_checkpoint("llama"), tmp_path, attacks)
    assert watched.trainer.global_step == 4
    assert [result["reason"] for result in attacks.results] == ["no memory left"]
    assert "the attacks were not run: no memory left" in capsys.readouterr().out


def test_without_a_suite_nothing_is_attacked(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    attacks = Attacks()
    Fitted(tiny_checkpoint("llama"), tmp_path, attacks)
    assert attacks.results == []


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_epochs_that_are_none_are_refused(epochs: Any) -> None:
    with pytest.raises(ValueError, match=f"every_n_epochs is {epochs!r}; give a whole number of epochs, or null"):
        Attacks(every_n_epochs=epochs)
