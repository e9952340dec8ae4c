"""Processes that are killed while they write: what they leave goes away with the next one, what living ones make stays."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lightning.pytorch.tuner import lr_finder
from torch.utils.data import DataLoader, Dataset

from splitlearn.app import compose, train
from splitlearn.checkpoint import tensor_file, write_torch_file
from splitlearn.data.scratch import new_folder
from splitlearn.data.workers import name_temporary_folders
from splitlearn.files import whole_file, whole_folder, write_text
from tests.faults.processes import die, run, run_command, start

Stop = Callable[[], object]


def write_checkpoint(path: Path, stop: Stop) -> None:
    def half(content: Any, file: Any) -> None:
        file.write(b"half")
        file.flush()
        stop()

    vars(torch)["save"] = half
    write_torch_file(path, {})


def write_tensors(path: Path, stop: Stop) -> None:
    def half(tensors: Any, file: Path, metadata: Any) -> None:
        # As safetensors calls a file of its own.
        file.with_name(".tmpAbCdEf").write_bytes(b"half")
        stop()

    vars(tensor_file)["save_file"] = half
    tensor_file.write_tensor_file({"a": torch.zeros(2)}, path)


def write_folder(path: Path, stop: Stop) -> None:
    with whole_folder(path, exist_ok=True) as temporary:
        write_text(temporary / "whole", "whole")
        with whole_file(temporary / "model.safetensors") as file:
            file.write_text("half")
            stop()


def write_some_text(path: Path, stop: Stop) -> None:
    with whole_file(path) as temporary:
        temporary.write_text("half")
        stop()


WRITES = {"a checkpoint": write_checkpoint, "tensors": write_tensors, "an export": write_folder, "a text": write_some_text}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", WRITES)
def test_what_a_killed_process_left_goes_with_the_next_write(kind: str, tmp_path: Path) -> None:
    """Fault: kill -9 while a file or folder is written. Promise: the next write beside it removes what was left."""
    (tmp_path / "old").write_text("old")
    path = tmp_path / ("new" if kind == "an export" else "old")
    assert run(lambda: WRITES[kind](path, die)).status == -9
    assert (tmp_path / "old").read_text() == "old" and len(names(tmp_path)) == 2
    write_text(tmp_path / "other", "other")
    assert names(tmp_path) == ["old", "other"]


def test_what_a_killed_process_left_goes_while_processes_that_it_forked_live_on(tmp_path: Path) -> None:
    """Fault: kill -9 of a run whose batches other processes prepare. Promise: what it left goes before these notice its end."""
    reading, writing = os.pipe()

    def fork_and_die() -> None:
        if os.fork() == 0:
            os.close(writing)
            # As long as the pipe is open at its other end.
            os.read(reading, 1)
            os._exit(0)
        die()

    assert run(lambda: write_some_text(tmp_path / "new", fork_and_die)).status == -9
    write_text(tmp_path / "other", "other")
    assert names(tmp_path) == ["other"]
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_what_was_killed_while_it_removed_its_folder_goes_with_the_next_write(tmp_path: Path) -> None:
    """Fault: kill -9 while a temporary folder is removed. Promise: the next write beside it removes the rest."""
    for number in range(4):
        calls = iter(range(number))

        def remove_some(path: Any, *args: Any, calls: Any = calls, unlink: Any = os.unlink, **kwargs: Any) -> None:
            if next(calls, None) is None:
                die()
            unlink(path, *args, **kwargs)

        def give_up(path: Path) -> None:
            with whole_folder(path) as temporary:
                for name in "abc":
                    (temporary / name).touch()
                vars(os)["unlink"] = remove_some
                raise KeyboardInterrupt

        assert run(lambda: give_up(tmp_path / "new")).status == -9
        assert names(tmp_path) != []
        write_text(tmp_path / "other", "other")
        assert names(tmp_path) == ["other"]
        (tmp_path / "other").unlink()


def test_rows_of_a_killed_run_go_with_a_run_that_reads_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: kill -9 while a completed run ends. Promise: the next run removes its rows, even if it has nothing to do."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")

    def read_and_die() -> None:
        new_folder(tmp_path / "datasets")
        die()

    assert run(read_and_die).status == -9
    assert len(list((tmp_path / "datasets").rglob("in_use"))) == 1
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(compose(*TINY, "ckpt_path=nowhere"), folder=tmp_path / "run")
    assert list((tmp_path / "datasets").rglob("in_use")) == []


class Numbers(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index])


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for the names of sockets, which are limited to about a hundred letters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize("is_done", [False, True], ids=["at work", "done"])
@pytest.mark.parametrize("status", [143, -9])
def test_processes_that_prepare_batches_leave_nothing(status: int, is_done: bool, short_path: Path) -> None:
    """Fault: a run is stopped or killed while others prepare its batches. Promise: their temporary files go with them."""

    def load() -> None:
        tempfile.tempdir = str(short_path)
        name_temporary_folders()
        batches = iter(DataLoader(Numbers(), num_workers=2))
        next(batches)
        assert len(list(short_path.glob("*/listener-*"))) > 0
        if is_done:
            assert len(list(batches)) == 7
        if status == -9:
            die()
        for worker in multiprocessing.active_children():
            worker.terminate()
            worker.join()
        del batches
        # As Python does in the end.
        multiprocessing.util._exit_function()  # type: ignore[attr-defined]
        raise SystemExit(status)

    ended = run(load)
    assert ended.status == status, ended.text
    until_s = time.monotonic() + 30
    while names(short_path) and time.monotonic() < until_s:
        time.sleep(0.1)
    assert names(short_path) == []


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    """Fault: two processes write beside each other. Promise: neither removes what the other has under way."""
    (ready, say_ready), (go_on, say_go_on) = os.pipe(), os.pipe()

    def wait() -> None:
        os.write(say_ready, b"x")
        os.read(go_on, 1)

    living = start(lambda: write_some_text(tmp_path / "first", wait))
    assert os.read(ready, 1) == b"x"
    write_text(tmp_path / "second", "second")
    assert len(names(tmp_path)) == 2
    os.write(say_go_on, b"x")
    assert living.wait().status == 0
    assert names(tmp_path) == ["first", "second"] and (tmp_path / "first").read_text() == "half"
    for descriptor in (ready, say_ready, go_on, say_go_on):
        os.close(descriptor)


TINY = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=8", "data.max_val_blocks=2", "trainer.max_steps=2"]
TINY += ["trainer.enable_progress_bar=false", "verbose=false"]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*") if path.name not in (".run.lock", ".run.json", ".hydra"))


def kill_in(name: str) -> Stop:
    """Have the process killed as Lightning or a run writes a checkpoint whose name begins so, when half of it is written."""

    def prepare() -> None:
        save = torch.save

        def half(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
            if Path(file.name).name.startswith(name):
                file.write(b"half")
                file.flush()
                die()
            save(content, file, *args, **kwargs)

        vars(torch)["save"] = half

    return prepare


@pytest.mark.parametrize("name", ["last", "trunk"])
def test_what_a_killed_run_left_goes_with_the_next_run_in_its_folder(name: str, tmp_path: Path) -> None:
    """Fault: kill -9 while a run saves a checkpoint or its parts. Promise: the next run in its folder removes what was left."""
    first = run_command("train", *TINY, f"hydra.run.dir={tmp_path}", prepare=kill_in(name))
    assert first.status == -9 and hidden(tmp_path) != [], first.text
    ended = run_command("train", *TINY, f"hydra.run.dir={tmp_path}", "ckpt_path=auto")
    assert ended.status == 0 and hidden(tmp_path) == [], ended.text


def test_what_a_killed_search_left_goes_with_the_next_run(tmp_path: Path) -> None:
    """Fault: kill -9 while Lightning searches for a learning rate. Promise: the next run removes its hidden checkpoint."""
    search = "callbacks=[default,find_learning_rate]"

    def prepare() -> None:
        vars(lr_finder)["_try_loop_run"] = lambda *args: die()

    first = run_command("train", *TINY, search, f"hydra.run.dir={tmp_path}", prepare=prepare)
    assert first.status == -9 and hidden(tmp_path)[0].startswith(".lr_find_"), first.text
    ended = run_command("train", *TINY, f"hydra.run.dir={tmp_path}", "overwrite=true")
    assert ended.status == 0 and hidden(tmp_path) == [], ended.text
