"""Shared fixtures: tiny checkpoints on disk, made once for the whole run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Tests never talk to a hub; what they load lies in folders they made.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests run side by side; the commands that they start take one thread each, as they do themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import torch
import transformers

from splitlearn.checkpoint import shard
from splitlearn.interruption import note_interruption
from tests.tiny_models import write_tiny_checkpoint

transformers.utils.logging.disable_progress_bar()
# The same examples in every run, and no time limit for one: the machine may be busy. No folder of examples is kept.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _handlers_of_signals() -> Iterator[None]:
    """Put handlers of signals back: a command that a test calls as a function leaves its own, as it may before it exits."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    note_interruption(None)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that gives the folder of a sharded tiny checkpoint, written on first use."""
    made: dict[tuple[object, ...], Path] = {}

    def get(model_type: str, **changes: Any) -> Path:
        key = (model_type, *sorted(changes.items()))
        if key not in made:
            made[key] = write_tiny_checkpoint(tmp_path_factory.mktemp(model_type), model_type, **changes)
        return made[key]

    return get


@pytest.fixture
def weights_stay_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test as soon as anybody reads a tensor of a safetensors file, or asks where one lies in order to read it.

    The methods are replaced on their class, so it does not matter under which names functions were imported.
    """

    def refuse(self: shard.Shard, name: str) -> None:
        pytest.fail(f"{name} was read from {self.path}")

    for method in ("read", "offset"):
        monkeypatch.setattr(shard._SafetensorsShard, method, refuse)
