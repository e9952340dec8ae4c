"""Where a step's time goes, on a model whose phases are slowed down one by one."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from torch.utils.data import DataLoader, IterableDataset

from splitlearn.boundary import BoundaryObserver
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import PartBytes, StepPhases
from splitlearn.training.saved_activations import SavedActivations
from splitlearn.training.step_clock import PHASES
from tests.training.test_module import batches, loader, trained_parameters, trainer

PAUSE_S = 0.1
STEPS = 4


def pause(*_: Any) -> None:
    time.sleep(PAUSE_S)


class SlowCut(BoundaryObserver):
    def on_send(self, *_: Any) -> None:
        pause()


class SlowRows(IterableDataset[dict[str, torch.Tensor]]):
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in batches([2] * STEPS):
            pause()
            yield batch


class SlowSomewhere(Callback):
    """Slows one phase down, or what belongs to none."""

    def __init__(self, where: str) -> None:
        self._where = where

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        composed = pl_module.composed
        if self._where in ("bottom", "trunk", "top"):
            getattr(composed, self._where).register_forward_hook(pause)
        elif self._where in ("cut_1", "cut_2"):
            composed.boundaries[self._where == "cut_2"].observers.append(SlowCut())
        elif self._where == "backward":
            next(composed.trunk.layers[0].parameters()).register_hook(pause)
        elif self._where == "optimizer":
            trainer.optimizers[0].register_step_post_hook(pause)

    def on_train_batch_end(self, *_: Any) -> None:
        if self._where == "callback":
            pause()


def fit(checkpoint: Path, folder: Path, *callbacks: Callback, data: Any = None, **settings: Any) -> SplitCausalLM:
    module = SplitCausalLM(str(checkpoint), 2, 4)
    rows = loader(batches([2] * STEPS)) if data is None else data
    trainer(folder, callbacks=list(callbacks), log_every_n_steps=1, **settings).fit(module, rows)
    return module


@pytest.mark.parametrize("where", ["bottom", "cut_1", "trunk", "cut_2", "top", "backward", "optimizer", "data", "callback"])
def test_each_phase_is_told_apart(where: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    phases = StepPhases()
    data = DataLoader(SlowRows(), batch_size=None) if where == "data" else None
    fit(tiny_checkpoint("llama", tie_word_embeddings=False), tmp_path, phases, SlowSomewhere(where), data=data)
    summary = phases.summary()
    assert summary is not None and summary["num_steps"] == STEPS - 1
    medians = {phase: summary[phase]["median_s"] for phase in PHASES}
    slow = {phase for phase, seconds in medians.items() if seconds >= PAUSE_S}
    assert slow == (set() if where == "callback" else {where, "step"})
    assert min(medians.values()) > 0
    assert sum(medians[phase] for phase in PHASES[:-1]) <= 1.5 * medians["step"]


def test_loggers_get_the_figures(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    phases = StepPhases()
    fit(tiny_checkpoint("llama"), tmp_path, phases, logger=CSVLogger(tmp_path, name="", version=""))
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["phases/trunk_s"]] == ["1", "2", "3"], "the first step is a warm-up"
    summary = phases.summary()
    assert summary is not None
    last = rows[-1]
    assert float(last["phases/trunk_median_s"]) == pytest.approx(summary["trunk"]["median_s"])
    assert {f"phases/{phase}_{name}" for phase in PHASES for name in ("median_s", "p95_s", "p99_s")} <= set(last)


def test_accumulated_batches_are_one_step(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    phases = StepPhases()
    fit(tiny_checkpoint("llama"), tmp_path, phases, SlowSomewhere("trunk"), accumulate_grad_batches=2)
    summary = phases.summary()
    assert summary is not None and summary["num_steps"] == STEPS // 2 - 1
    assert summary["trunk"]["median_s"] >= 2 * PAUSE_S


def test_the_users_profiler_goes_on(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    profiler = SimpleProfiler()
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    made = trainer(tmp_path, callbacks=[StepPhases()], profiler=profiler)
    made.fit(module, loader(batches([2] * STEPS)))
    assert made.profiler is profiler  # type: ignore[attr-defined]
    assert len(profiler.recorded_durations["run_training_batch"]) == STEPS


class Broken(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("out of order")

        pl_module.composed.trunk.register_forward_pre_hook(fail)


def test_an_error_leaves_nothing_behind(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[torch.Tensor] = []

    def pack(_: SavedActivations, tensor: torch.Tensor) -> torch.Tensor:
        packed.append(tensor)
        return tensor

    monkeypatch.setattr(SavedActivations, "_pack", pack)
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    made = trainer(tmp_path, callbacks=[StepPhases(), PartBytes(), Broken()])
    with pytest.raises(RuntimeError, match="out of order"):
        made.fit(module, loader(batches([2])))
    assert packed, "the bottom ran"
    packed.clear()
    (torch.ones(2, requires_grad=True) ** 2).sum().backward()
    assert packed == [], "autograd's hooks are gone"
    assert isinstance(made.profiler, PassThroughProfiler)  # type: ignore[attr-defined]
    assert module.composed.stage_observers == []


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_checkpointing": True}, {"peft": {"method": "lora"}}, {"compile_layers": {"backend": "aot_eager"}}],
    ids=["plain", "recomputed", "lora", "compiled"],
)
def test_measuring_changes_no_bit(settings: dict[str, Any], tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    def train(*callbacks: Callback) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        # Attention dropout draws random numbers.
        module = SplitCausalLM(str(tiny_checkpoint("qwen2", tie_word_embeddings=True)), 2, 4, **settings)
        trainer(tmp_path, callbacks=list(callbacks), max_epochs=2).fit(module, loader(batches([2, 3, 1])))
        return trained_parameters(module)

    plain, measured = train(), train(StepPhases(), PartBytes())
    assert plain.keys() == measured.keys()
    assert all(torch.equal(plain[name], measured[name]) for name in plain)


def test_another_module_is_refused() -> None:
    with pytest.raises(TypeError, match="StepPhases measures the parts of a SplitCausalLM, not of a LightningModule"):
        StepPhases().on_train_start(Trainer(logger=False), LightningModule())
