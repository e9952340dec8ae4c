"""Runs that are killed, or that meet in one folder: two runs never become one."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splitlearn.app import compose, train
from splitlearn.app import training as training_module

TINY = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=8", "data.max_val_blocks=2", "verbose=false"]
TINY += ["trainer.enable_progress_bar=false", "callbacks.evaluation=null"]


@contextmanager
def another_process(task: Callable[[], object]) -> Iterator[int]:
    """Run a task in a process of its own, and kill that process at the end of the block, if it still runs."""
    number = os.fork()
    if number == 0:
        try:
            task()
        finally:
            os._exit(1)
    try:
        yield number
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)


def run_tiny(folder: Path, *settings: str) -> None:
    train(compose(*TINY, *settings), folder=folder)


def test_two_runs_at_once_in_one_folder(tmp_path: Path) -> None:
    """Fault: a second run starts in the folder of one that runs. Promise: a sentence names its process and host."""
    reading, writing = os.pipe()

    def block(*args: object) -> None:
        os.write(writing, b"running")
        signal.pause()

    def run_until_blocked() -> None:
        training_module.open_model = block  # type: ignore[assignment]
        run_tiny(tmp_path, "trainer.max_steps=1")

    with another_process(run_until_blocked) as first:
        assert os.read(reading, 7) == b"running"
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != ".run.lock"}
        with pytest.raises(ValueError) as error:
            run_tiny(tmp_path, "trainer.max_steps=1")
        assert f"{tmp_path} is in use by another run, process {first} on {socket.gethostname()}" in str(error.value)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != ".run.lock"} == before
    # The lock is the dead process's no longer.
    run_tiny(tmp_path, "trainer.max_steps=1")
    assert (tmp_path / "summary.json").is_file()
