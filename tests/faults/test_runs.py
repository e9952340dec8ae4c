"""Runs that are killed, or that meet in one folder: two runs never become one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from splitlearn.app import compose, evaluate, export, generate, train, verify_run
from splitlearn.app import training as training_module
from splitlearn.app.checkpoints import read_checkpoint
from splitlearn.checkpoint import read_part_file
from splitlearn.cut import PART_NAMES
from splitlearn.export import RunRecord, check_saved_state
from splitlearn.loading import ModelFactory
from splitlearn.model import SplitModel
from splitlearn.runs import Stamp, read_summary, write_summary
from tests.faults import processes

TINY = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=16", "data.max_val_blocks=2", "verbose=false"]
TINY += ["trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", "optimizer.learning_rate=1e-2"]


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


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that is done."""
    folder = tmp_path_factory.mktemp("completed") / "run"
    run_tiny(folder, "trainer.max_steps=2")
    return folder


def command(name: str, run: Path, **settings: Any) -> Any:
    """Return the configuration of a command on a run."""
    return compose(f"run={run}", *(f"{key}={value}" for key, value in settings.items()), config_name=name)


def saved_stamps(folder: Path) -> list[Any]:
    return [read_part_file(folder / "parts" / f"{name}.pt")[0]["run"] for name in PART_NAMES]


def is_whole(folder: Path) -> bool:
    """Return whether the end of a run can be used; what is refused is refused in one sentence."""
    try:
        check_saved_state(RunRecord.read(folder))
    except (ValueError, FileNotFoundError) as refusal:
        assert "\n" not in str(refusal)
        return False
    return True


def test_a_kill_between_two_parts_of_a_run_that_went_on(completed: Path, tmp_path: Path) -> None:
    """Fault: kill -9 between saving two parts. Promise: the mixture is refused, and the run goes on to the same end."""
    run = shutil.copytree(completed, tmp_path / "run")
    rename = os.replace

    def rename_and_die(source: Any, target: Any) -> None:
        rename(source, target)
        if Path(target) == run / "parts" / "bottom.pt":
            os.kill(os.getpid(), signal.SIGKILL)

    def go_on() -> None:
        setattr(os, "replace", rename_and_die)  # noqa: B010
        run_tiny(run, "trainer.max_steps=4", "ckpt_path=last")

    with another_process(go_on) as process:
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        assert ended is not None and ended.si_status == signal.SIGKILL
    first, second = saved_stamps(completed)[0], saved_stamps(run)
    assert second[1:] == [first, first] and second[0]["step"] == 4 and second[0]["run"] != first["run"]
    for command_of, task in ((command("export", run, out=tmp_path / "out"), export), (command("evaluate", run), evaluate)):
        with pytest.raises(
            FileNotFoundError, match=r"is killed before its end, not completed; take what .* ckpt=last"
        ) as error:
            task(command_of)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="killed before its end"):
        generate(command("generate", run, prompt="a", max_new_tokens=1))
    with pytest.raises(ValueError, match=r"bottom is of run \w+ at step 4, trunk is of run \w+ at step 2"):
        ModelFactory.load_saved_parts(run / "parts")
    # Only saving was left.
    run_tiny(run, "trainer.max_steps=4", "ckpt_path=last")
    unharmed = shutil.copytree(completed, tmp_path / "unharmed")
    run_tiny(unharmed, "trainer.max_steps=4", "ckpt_path=last")
    for name in PART_NAMES:
        tensors, expected = (read_part_file(folder / "parts" / f"{name}.pt")[1] for folder in (run, unharmed))
        assert all(torch.equal(tensor, expected[key]) for key, tensor in tensors.items())
    assert is_whole(run) and evaluate(command("evaluate", run)) | {"run": 0} == evaluate(command("evaluate", unharmed)) | {
        "run": 0
    }


@pytest.mark.parametrize("settings", [["ckpt_path=last"], ["overwrite=true"]], ids=["goes on", "replaces"])
def test_a_kill_at_any_moment_in_a_folder_used_before(
    settings: list[str], completed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: kill -9 at any moment in a folder used before. Promise: the old run is whole, or the new, or neither is used."""
    run = shutil.copytree(completed, tmp_path / "run")
    old = read_summary(run)
    moments: list[Path] = []
    rename, unlink = os.replace, os.unlink

    def keep_moment() -> None:
        moments.append(shutil.copytree(run, tmp_path / f"moment_{len(moments)}"))

    def rename_later(source: Any, target: Any) -> None:
        keep_moment()
        rename(source, target)

    def unlink_later(path: Any, **kwargs: Any) -> None:
        keep_moment()
        unlink(path, **kwargs)

    monkeypatch.setattr(os, "replace", rename_later)
    monkeypatch.setattr(os, "unlink", unlink_later)
    run_tiny(run, "trainer.max_steps=3", *settings)
    monkeypatch.undo()
    new = read_summary(run)
    assert old is not None and new is not None and old.run_id != new.run_id and is_whole(run)
    states = []
    for moment in moments:
        summary = read_summary(moment)
        assert summary is not None
        states.append(["old", "new"][summary == new] if is_whole(moment) else "neither")
        assert (summary.run_id == old.run_id) == (states[-1] == "old")
        for path in (moment / "checkpoints").glob("*.ckpt"):
            read_checkpoint(path)
    assert list(dict.fromkeys(states)) == ["old", "neither", "new"] and states == sorted(states, key="old neither new".index)


def test_a_part_of_another_run_is_copied_into_a_folder(completed: Path, tmp_path: Path) -> None:
    """Fault: a part of another state lies in a completed run. Promise: verify, export, generate and evaluate name it."""
    run = shutil.copytree(completed, tmp_path / "run")
    SplitModel.load(run / "parts" / "top.pt").save(run / "parts" / "top.pt", Stamp("f" * 32, 2))
    named = r"parts/top.pt is of run f{32} at step 2, but .*summary.json is of run \w+ at step 2"
    for task, cfg in ((export, command("export", run, out=tmp_path / "out")), (evaluate, command("evaluate", run))):
        with pytest.raises(ValueError, match=named):
            task(cfg)
    with pytest.raises(ValueError, match=named):
        generate(command("generate", run, prompt="a", max_new_tokens=1))
    problems = {outcome.file: outcome.problem for outcome in verify_run(command("verify", run)) if outcome.problem}
    assert list(problems) == ["summary.json"] and re.search(named, problems["summary.json"])


def test_a_kill_while_a_run_is_replaced(completed: Path, tmp_path: Path) -> None:
    """Fault: kill -9 while overwrite=true removes the old run. Promise: its checkpoints are not taken for the new run's."""
    run = shutil.copytree(completed, tmp_path / "run")
    summary = read_summary(run)
    assert summary is not None
    # The new run has written nothing but its record.
    write_summary(run, replace(summary, run_id="f" * 32, step=None, status="running"))
    for task in (
        lambda: run_tiny(run, "trainer.max_steps=3", "ckpt_path=last"),
        lambda: export(command("export", run, out=tmp_path / "out", ckpt="last")),
    ):
        with pytest.raises(ValueError, match=r"of run f{32}, which did not go on from it; .* start again with overwrite=true"):
            task()
    assert saved_stamps(run) == saved_stamps(completed)


def test_a_configuration_of_somebody_elses_run(completed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: a run folder from elsewhere names ${oc.env:...}. Promise: it is text; no variable is read, shown or published."""
    monkeypatch.setenv("SECRET_TOKEN", "hf_hidden")
    name = "${oc.env:SECRET_TOKEN}"
    run = shutil.copytree(completed, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] |= {"source": name, "block_size": 16}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "prompt_format.json").write_text(json.dumps({"system": name, "end_text": name}))
    for file in ("config", "hydra", "overrides"):
        (run / ".hydra").mkdir(exist_ok=True)
        (run / ".hydra" / f"{file}.yaml").write_text(f"data: {{source: '{name}'}}")
    out = export(command("export", run, out=tmp_path / "out"))
    assert f"Data: {name}, blocks of 16 tokens." in (out / "README.md").read_text()
    assert not [path for path in out.rglob("*") if b"hf_hidden" in path.read_bytes()]
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        evaluate(command("evaluate", run))
    assert name in str(error.value) and "hf_hidden" not in str(error.value)
    config["model"]["name_or_path"] = {"_target_": "os.system", "command": "false"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"config.yaml is damaged .*: its `model` does not say name_or_path"):
        export(command("export", run, out=tmp_path / "again"))
    config["model"]["name_or_path"] = name
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for task in (export, evaluate):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            task(command(task.__name__, run, **({"out": tmp_path / "again"} if task is export else {})))
        assert name in str(error.value) and "hf_hidden" not in str(error.value)


def test_two_exports_to_one_place_at_once(completed: Path, tmp_path: Path) -> None:
    """Fault: two exports write one folder at once. Promise: one is there whole, the other is told so; nothing else is left."""
    expected = export(command("export", completed, out=tmp_path / "expected"))
    cfg = command("export", completed, out=tmp_path / "exports" / "out")
    ended = [process.wait() for process in [processes.start(lambda: export(cfg)) for _ in range(2)]]
    assert sorted(end.status for end in ended) == [0, 1]
    assert re.search(r"exports/out exists already", next(end.text for end in ended if end.status))
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["out"]
    for path in expected.iterdir():
        assert (tmp_path / "exports" / "out" / path.name).read_bytes() == path.read_bytes()


def test_two_runs_at_once_in_one_folder(tmp_path: Path) -> None:
    """Fault: a second run starts in the folder of one that runs. Promise: a sentence names its process and host."""
    folder = tmp_path / "run ${1}"
    reading, writing = os.pipe()

    def block(*args: object) -> None:
        os.write(writing, b"running")
        signal.pause()

    def run_until_blocked() -> None:
        training_module.open_model = block  # type: ignore[assignment]
        run_tiny(folder, "trainer.max_steps=1")

    with another_process(run_until_blocked) as first:
        assert os.read(reading, 7) == b"running"
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".run.lock"}
        with pytest.raises(ValueError) as error:
            run_tiny(folder, "trainer.max_steps=1")
        assert f"{folder} is in use by another run, process {first} on {socket.gethostname()}" in str(error.value)
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".run.lock"} == before
    # The lock is the dead process's no longer.
    run_tiny(folder, "trainer.max_steps=1")
    assert (folder / "summary.json").is_file()
