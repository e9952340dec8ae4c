"""Nothing of a run outlives it in its process."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch import LightningModule, Trainer

from splitlearn.app import compose, train
from splitlearn.app.process import leaving_no_trace
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import DivergedError

SHORT = ["trainer.max_steps=2", "data.max_train_blocks=16", "data.max_val_blocks=4", "trainer.enable_progress_bar=false"]
SHORT += ["verbose=false", "trainer.log_every_n_steps=1"]
CACHED = ["peft=lora", "optimizer.parts.bottom.train=false", "peft.parts.bottom=false", "activation_cache=memory"]


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def counted() -> dict[str, Any]:
    gc.collect()
    # Asking some of torch's objects for their class with isinstance() warns of their deprecation.
    kinds = [type(each) for each in gc.get_objects()]
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    return {
        "modules": sum(issubclass(kind, LightningModule) for kind in kinds),
        "trainers": sum(issubclass(kind, Trainer) for kind in kinds),
        "parameters": sum(issubclass(kind, torch.nn.Parameter) for kind in kinds),
        "handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "threads": {each.name for each in threading.enumerate()},
        "files": {each.path for each in psutil.Process().open_files()},
        "exits": atexit._ncallbacks(),
        "temporary": {each.name for each in Path(tempfile.gettempdir()).iterdir()},
        "log handlers": sum(len(each.handlers) for each in [logging.root, *loggers]),
        "warnings": len(warnings.filters),
        "environment": dict(os.environ),
        "torch": (torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        "grad": torch.is_grad_enabled(),
        "hydra": GlobalHydra.instance().is_initialized(),
    }


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def at_first_epoch(number: int) -> None:
        monkeypatch.setattr(SplitCausalLM, "on_train_epoch_start", lambda module: os.kill(os.getpid(), number))

    return at_first_epoch


def test_nothing_outlives_a_run(tmp_path: Path, interrupts: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    train(compose(*SHORT), folder=tmp_path / "first")
    before = counted()
    result = train(compose(*SHORT, *CACHED, "trainer.deterministic=true"), folder=tmp_path / "completed")
    assert next(result.module.parameters()) is not None, "whoever holds the result holds the run"
    del result
    assert counted() == before
    with pytest.raises(ValueError):
        train(compose(*SHORT, "optimizer.parts.bottom.train=false", "optimizer.parts.top.train=full"), folder=tmp_path / "no")
    assert counted() == before
    with pytest.raises(DivergedError) as diverged:
        train(compose(*SHORT, "optimizer.learning_rate=1e30", "trainer.max_steps=6"), folder=tmp_path / "diverged")
    assert counted() == before, f"though {diverged.value!r} is still held"
    interrupts(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        train(compose(*SHORT), folder=tmp_path / "stopped")
    assert end.value.code == 143 and counted() == before
    assert "ckpt_path=last goes on" in json.loads((tmp_path / "stopped" / "summary.json").read_text())["reason"]
    assert f"ckpt_path=last hydra.run.dir={tmp_path / 'stopped'}" in capsys.readouterr().err


def test_memory_does_not_grow_from_run_to_run(tmp_path: Path) -> None:
    peaks = [train(compose(*SHORT), folder=tmp_path / str(number)).metrics["peak_rss_gib"] for number in range(4)]
    assert max(peaks[1:]) < peaks[1] + 0.05


def test_ctrl_c_before_training_is_a_keyboard_interrupt_and_leaves_ctrl_c_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SplitCausalLM, "load_parts", lambda module: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(compose(*SHORT), folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "interrupted" and "before there was a checkpoint" in summary["reason"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_of_whoever_calls_are_back_after_a_run(number: int, tmp_path: Path) -> None:
    came: list[int] = []
    before = signal.signal(number, lambda number, frame: came.append(number))
    try:
        train(compose(*SHORT), folder=tmp_path)
        os.kill(os.getpid(), number)
        assert came == [number]
    finally:
        signal.signal(number, before)


def test_what_a_function_changes_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITLEARN_TEST_KEPT", "before")
    monkeypatch.delenv("SPLITLEARN_TEST_NEW", raising=False)

    @leaving_no_trace
    def change(one: int, *, two: int) -> int:
        os.environ["SPLITLEARN_TEST_KEPT"] = "after"
        os.environ["SPLITLEARN_TEST_NEW"] = "1"
        torch.use_deterministic_algorithms(True)
        torch.set_default_dtype(torch.float64)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return one + two

    assert change(1, two=2) == 3
    assert os.environ["SPLITLEARN_TEST_KEPT"] == "before" and "SPLITLEARN_TEST_NEW" not in os.environ
    assert not torch.are_deterministic_algorithms_enabled() and torch.get_default_dtype() == torch.float32
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
