"""Sweeps as a user types them: what they leave, what they skip, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from splitlearn.cli.sweeps.searching import open_study
from splitlearn.memory import GIB
from splitlearn.runs import find_holder

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["data.batch_size=2", "data.max_train_blocks=8", "data.max_val_blocks=2", "save_parts=false", "split.point_2=6"]
GRID = [*SHORT, "trainer.max_steps=2", "split.point_1=1,7", "data.block_size=16,100000"]


def begin(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command: list[str | Path] = [sys.executable, ROOT / "train.py", "-m", f"hydra.sweep.dir={folder}", *overrides]
    environment = {**os.environ, "HYDRA_FULL_ERROR": "0"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder.parent, env=environment
    )


def sweep(folder: Path, *overrides: str) -> tuple[int, str]:
    process = begin(folder, *overrides)
    text = process.communicate(timeout=200)[0]
    return process.returncode, text


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/summary.json"))}


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def until(happens: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if value := happens():
            return value
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate()[0])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    folder = tmp_path_factory.mktemp("sweeps") / "cuts"
    return folder, *sweep(folder, *GRID)


def test_every_job_leaves_a_record_named_by_what_varies(done: tuple[Path, int, str]) -> None:
    folder, status, text = done
    assert status == 1, text
    found = {name: record["status"] for name, record in records(folder).items()}
    assert found == {
        "split.point_1=1,data.block_size=16": "completed",
        "split.point_1=1,data.block_size=100000": "failed",
        "split.point_1=7,data.block_size=16": "refused",
        "split.point_1=7,data.block_size=100000": "refused",
    }
    for name, record in records(folder).items():
        assert record["overrides"] == name.split(",")
        assert record["sweep"] == str(folder)
        assert (folder / name / ".hydra" / "config.yaml").is_file()
    completed = folder / "split.point_1=1,data.block_size=16"
    record = records(folder)[completed.name]
    assert record["traffic"]["cut_1"] and record["loading"]
    assert "Loading component" in (completed / "output.log").read_text()
    assert (completed / "config.yaml").is_file() and not (completed / "traceback.txt").exists()
    failed = folder / "split.point_1=1,data.block_size=100000"
    assert "data.block_size is 100000" in records(folder)[failed.name]["reason"]
    assert "Traceback" in (failed / "traceback.txt").read_text()


def test_each_run_is_one_line(done: tuple[Path, int, str]) -> None:
    _, _, text = done
    lines = text.splitlines()
    assert len(lines) == 6, text
    assert lines[0].startswith("sweep of 4 runs in ")
    assert re.match(r"1/4  split.point_1=1 data.block_size=16  loss \d\.\d+  peak .*B  \d+ s  about .* left$", lines[1])
    assert "failed: data.block_size is 100000" in lines[2]
    assert "refused: split_point_1 is 7 and split_point_2 is 6" in lines[3]
    assert lines[5] == "4 runs: 1 completed, 1 failed, 2 refused"


def test_a_sweep_started_again_runs_what_failed_and_changes_nothing_else(done: tuple[Path, int, str]) -> None:
    folder, _, _ = done
    finished = [folder / name for name, record in records(folder).items() if record["status"] != "failed"]
    before = [files_of(path) for path in finished]
    status, text = sweep(folder, *GRID)
    assert status == 1
    assert text.splitlines()[-1] == "4 runs: 1 failed, 3 skipped (done before)"
    assert [files_of(path) for path in finished] == before


def test_runs_of_other_settings_are_refused(done: tuple[Path, int, str]) -> None:
    folder, _, _ = done
    before = files_of(folder)
    status, text = sweep(folder, *GRID, "trainer.max_steps=3")
    assert status == 2
    assert "holds a run of other settings (trainer.max_steps=2 then and trainer.max_steps=3 now)" in text
    assert {name: state for name, state in files_of(folder).items() if "multirun.yaml" not in name} == {
        name: state for name, state in before.items() if "multirun.yaml" not in name
    }


def test_a_killed_run_and_an_interrupted_sweep_are_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    grid = [*SHORT, "trainer.max_epochs=6", "save_steps=4", "seed=0,1", "split.point_1=1", "data.block_size=16"]
    process = begin(folder, *grid)
    first, second = folder / "seed=0", folder / "seed=1"
    until(lambda: (first / "checkpoints" / "last.ckpt").is_file(), process)
    holder = find_holder(first)
    assert holder is not None
    os.kill(holder.process, signal.SIGKILL)
    until(lambda: (second / "checkpoints" / "last.ckpt").is_file(), process)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 130, text
    found = records(folder)
    assert {name: record["status"] for name, record in found.items()} == {"seed=0": "failed", "seed=1": "interrupted"}
    assert "its process was killed (SIGKILL)" in found["seed=0"]["reason"]
    assert "Traceback" not in text
    assert text.splitlines()[-1] == "2 runs: 1 failed, 1 interrupted"
    assert find_holder(second) is None

    status, text = sweep(folder, *grid)
    assert status == 0, text
    again = records(folder)
    for name, record in again.items():
        assert record["status"] == "completed" and record["metrics"]["train_steps"] == 24
        assert record["earlier_starts"] == [found[name]["run_id"]], "it went on and did not begin anew"


def test_two_processes_search_together(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    space = [*SHORT, "trainer.max_steps=1", "data.block_size=16", "split.point_1=range(1,8)", "hydra/sweeper=search"]
    processes = [begin(folder, *space, "hydra.sweeper.n_trials=4") for _ in range(2)]
    texts = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    lines = [line for text in texts for line in text.splitlines() if re.match(r"\d/4  split.point_1=\d  ", line)]
    assert 4 <= len(lines) <= 5, "the last trial may have been begun by both"
    assert all("4 trials: " in text or "5 trials: " in text or "under way" in text for text in texts)
    points = {int(name.partition("=")[2]): found["status"] for name, found in records(folder).items()}
    assert points and all(status == ("completed" if point <= 6 else "refused") for point, status in points.items())
    study = open_study(folder, {"loss": "minimize", "client_gib": "minimize", "bytes_per_step": "minimize"}, "tpe", None)
    told = {trial.params["split.point_1"]: trial.values for trial in study.trials if trial.state is TrialState.COMPLETE}
    figures = {name: found for name, found in records(folder).items() if found["status"] == "completed"}
    assert {f"split.point_1={point}" for point in told} == set(figures)
    for point, (loss, client_gib, _) in told.items():
        found = figures[f"split.point_1={point}"]
        assert loss == found["metrics"]["val_loss_after"]
        assert client_gib == found["memory"]["parties"]["client"] / GIB
