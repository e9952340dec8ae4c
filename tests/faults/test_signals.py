"""Signals to commands, in each of their phases: the exit status tells, the record is true, nothing is left half-written."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import splitlearn.app
import splitlearn.certificates
import splitlearn.report
from splitlearn.app import saving
from splitlearn.app.recorder import Recorder
from splitlearn.checkpoint import torch_file
from splitlearn.cli import COMMANDS
from splitlearn.data import BlockDataModule
from splitlearn.runs import read_summary
from splitlearn.training import SplitCausalLM, WholeFileCheckpointIO
from splitlearn.training.callbacks import LastCheckpoint
from tests.faults.processes import Ended, run_command

TINY = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=8", "data.max_val_blocks=2", "trainer.max_steps=2"]
TINY += ["trainer.enable_progress_bar=false", "verbose=false"]


def strike(number: int) -> None:
    os.kill(os.getpid(), number)


def before(owner: Any, name: str, number: int, when: Callable[[Any], bool] = lambda first: True) -> None:
    """Have a signal come as a function is called for the first time that its first argument is as wanted."""
    original = getattr(owner, name)
    struck: list[str] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not struck and when(args[0] if args else None):
            struck.append(name)
            strike(number)
        return original(*args, **kwargs)

    setattr(owner, name, call)


def has_trained(module: SplitCausalLM) -> bool:
    return module.trainer.global_step > 0


# Where the signal comes; whether there is a checkpoint then.
PHASES: dict[str, tuple[Callable[[int], None], bool]] = {
    "reading data": (lambda number: before(BlockDataModule, "setup", number), False),
    "loading": (lambda number: before(SplitCausalLM, "configure_model", number), False),
    "validating before": (lambda number: before(SplitCausalLM, "validation_step", number), False),
    "training": (lambda number: before(SplitCausalLM, "training_step", number), True),
    "checkpointing": (lambda number: before(WholeFileCheckpointIO, "save_checkpoint", number), True),
    "writing the last state": (lambda number: before(LastCheckpoint, "_save_last_checkpoint", number), True),
    "validating": (lambda number: before(SplitCausalLM, "validation_step", number, has_trained), True),
    "saving parts": (lambda number: before(saving, "save_parts", number), True),
}


def train(folder: Path, prepare: Callable[[], None]) -> Ended:
    return run_command("train", *TINY, f"hydra.run.dir={folder}", prepare=prepare)


def check(ended: Ended, number: int, folder: Path, has_checkpoint: bool) -> None:
    assert ended.status == 128 + number, ended.text
    assert "Traceback" not in ended.text
    summary = read_summary(folder)
    assert summary is not None and summary.status == "interrupted"
    assert (folder / "checkpoints" / "last.ckpt").is_file() == has_checkpoint
    assert [path for path in folder.rglob("*") if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_in_each_phase_of_a_run(phase: str, tmp_path: Path) -> None:
    """Fault: SIGTERM in any phase of a run. Promise: one sentence, status 143, a true record, nothing half-written."""
    come, has_checkpoint = PHASES[phase]
    ended = train(tmp_path, lambda: come(signal.SIGTERM))
    check(ended, signal.SIGTERM, tmp_path, has_checkpoint)
    told = [line for line in ended.text.splitlines() if line.startswith(("interrupted", "stopping"))]
    assert len(told) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("phase", ["loading", "training"])
def test_ctrl_c_and_a_terminal_that_is_closed(phase: str, number: int, tmp_path: Path) -> None:
    """Fault: Ctrl-C, or a terminal is closed, in any phase of a run. Promise: as for SIGTERM, with status 130 or 129."""
    come, has_checkpoint = PHASES[phase]
    check(train(tmp_path, lambda: come(number)), number, tmp_path, has_checkpoint)


def test_a_second_signal_in_training_does_not_wait_for_the_step(tmp_path: Path) -> None:
    """Fault: a second signal in training. Promise: the run ends without the step; the record is true."""

    def twice() -> None:
        before(SplitCausalLM, "training_step", signal.SIGTERM)
        before(SplitCausalLM, "training_step", signal.SIGTERM)

    ended = train(tmp_path, twice)
    check(ended, signal.SIGTERM, tmp_path, has_checkpoint=False)
    assert ended.text.splitlines()[-1] == "interrupted by SIGTERM"


def test_a_second_signal_ends_a_command_at_once(tmp_path: Path) -> None:
    """Fault: a second signal while a command cleans up. Promise: it ends at once, and leaves no temporary file."""

    def twice() -> None:
        def hangs(*args: Any) -> None:
            strike(signal.SIGTERM)
            signal.pause()

        before(torch_file.torch, "save", signal.SIGTERM)
        before(torch_file.torch, "save", signal.SIGTERM)
        setattr(Recorder, "end_badly", hangs)  # noqa: B010

    ended = train(tmp_path, twice)
    assert ended.status == 143 and "Traceback" not in ended.text
    assert [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize("call", [0, 3, 20])
def test_a_signal_while_a_part_is_being_written(call: int, tmp_path: Path) -> None:
    """Fault: SIGTERM while torch writes a part, which makes an error of it. Promise: the record says interrupted."""

    def prepare() -> None:
        save, calls = torch_file.torch.save, itertools.count()

        class Interrupted:
            def __init__(self, file: Any) -> None:
                self._file = file

            def write(self, content: Any) -> int:
                if next(calls) == call:
                    strike(signal.SIGTERM)
                return int(self._file.write(content))

            def __getattr__(self, name: str) -> Any:
                return getattr(self._file, name)

        def save_part(content: Any, file: Any) -> None:
            save(content, Interrupted(file) if Path(file.name).name == "trunk.pt" else file)

        vars(torch_file.torch)["save"] = save_part

    ended = train(tmp_path, prepare)
    check(ended, signal.SIGTERM, tmp_path, has_checkpoint=True)


def test_a_signal_while_something_is_half_made(tmp_path: Path) -> None:
    """Fault: SIGTERM while a library makes an object whose destructor then fails. Promise: one sentence, no traceback."""

    class HalfMade:
        def __del__(self) -> None:
            raise AttributeError("the half-made object")

    def prepare() -> None:
        def set_up(*args: Any) -> None:
            half_made = HalfMade()
            strike(signal.SIGTERM)
            del half_made

        setattr(BlockDataModule, "setup", set_up)  # noqa: B010
        # pytest has put its own in its place.
        sys.unraisablehook = sys.__unraisablehook__

    ended = train(tmp_path, prepare)
    check(ended, signal.SIGTERM, tmp_path, has_checkpoint=False)
    assert "half-made" not in ended.text


@pytest.mark.parametrize("is_lost", [False, True], ids=["raised", "lost on its way"])
def test_every_command_tells_of_the_signal(is_lost: bool, tmp_path: Path) -> None:
    """Fault: SIGTERM while any command works. Promise: one sentence, status 143."""
    number = signal.SIGTERM
    needs = {"export": ["run=x", "out=y"], "prepare": ["source=x", f"out={tmp_path / 'out'}"], "evaluate": ["run=x"]}
    needs |= {"generate": ["run=x", "prompt=a"], "report": ["folders=[x]"], "certificates": ["out=y"]}

    def works(*args: Any, **kwargs: Any) -> None:
        try:
            strike(number)
        except SystemExit:
            # As in a destructor, or by a library that ends with a status of its own.
            if is_lost:
                raise SystemExit(0) from None
            raise

    def prepare() -> None:
        for command in COMMANDS:
            vars(splitlearn.app)[command] = works
        vars(splitlearn.checkpoint)["prepare_checkpoint"] = works
        vars(splitlearn.report)["write_report"] = works
        vars(splitlearn.certificates)["make_certificates"] = works

    for command in COMMANDS:
        ended = run_command(command, *needs.get(command, []), f"hydra.run.dir={tmp_path / 'run'}", prepare=prepare)
        assert (ended.status, ended.text) == (143, "interrupted by SIGTERM\n"), command


def test_a_run_under_nohup_does_not_end_with_its_terminal(tmp_path: Path) -> None:
    """Fault: a terminal is closed under nohup. Promise: the run goes on."""

    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        before(SplitCausalLM, "training_step", signal.SIGHUP)

    ended = train(tmp_path, prepare)
    summary = read_summary(tmp_path)
    assert ended.status == 0 and summary is not None and summary.is_completed
