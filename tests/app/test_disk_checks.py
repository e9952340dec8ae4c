"""Disks without room and folders that cannot be written are found before weights are read."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from splitlearn.app import compose, train
from splitlearn.files import WriteError
from splitlearn.training import SplitCausalLM

TINY = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=8", "data.max_val_blocks=2", "verbose=false"]
TINY += ["trainer.enable_progress_bar=false", "trainer.max_steps=1"]
# The embedded model has so many parameters of four bytes.
WEIGHTS = 1_839_232 * 4


class LoadedError(Exception):
    """The run has come to the reading of weights."""


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(module: SplitCausalLM, *args: Any, **kwargs: Any) -> None:
        raise LoadedError

    monkeypatch.setattr(SplitCausalLM, "configure_model", loads)
    monkeypatch.setattr(SplitCausalLM, "setup", loads)


def run(folder: Path, *settings: str) -> None:
    train(compose(*TINY, *settings), folder=folder)


def have(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(total=2**40, free=free))


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ([], 4 * WEIGHTS),
        (["save_parts=false"], 3 * WEIGHTS),
        (["~callbacks.checkpoint", "~callbacks.last_checkpoint"], WEIGHTS),
        (["peft=lora"], 0),
        (["debug=fast_dev_run"], 0),
    ],
)
def test_a_disk_without_room_for_a_checkpoint_and_the_parts(
    settings: list[str], needed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(needed, monkeypatch)
    with pytest.raises(LoadedError):
        run(tmp_path / "fits", *settings)
    have(max(needed - 1, 0), monkeypatch)
    with pytest.raises(WriteError if needed else LoadedError) as error:
        run(tmp_path / "run", *settings)
    assert not needed or f"{needed / 2**20:,.2f} MiB are needed" in str(error.value)


def test_what_is_replaced_gives_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "notes").write_bytes(bytes(1000))
    have(4 * WEIGHTS - 1000, monkeypatch)
    with pytest.raises(LoadedError):
        run(tmp_path)


@pytest.mark.parametrize("name", ["checkpoints", "parts"])
def test_a_folder_that_cannot_be_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    temporary = tempfile.TemporaryFile

    def refuses(**settings: Any) -> Any:
        if settings["dir"] == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return temporary(**settings)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuses)
    with pytest.raises(WriteError, match=f"{name} cannot be written .Permission denied"):
        run(tmp_path)
