"""Which checkpoint a run goes on from, and what it must fit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from splitlearn.app import TrainResult, compose, evaluate, export, generate, train
from splitlearn.app.checkpoints import FinishedRunError, find_checkpoint, read_checkpoint
from splitlearn.app.run_folder import own_files
from splitlearn.checkpoint import CheckpointError, write_torch_file
from splitlearn.runs import LOCK_FILE

SHORT = ["data.max_train_blocks=48", "data.max_val_blocks=8", "trainer.enable_progress_bar=false", "verbose=false"]
SHORT += ["trainer.max_epochs=2", "callbacks.last_checkpoint.every_n_train_steps=4"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    settings = ["optimizer.learning_rate=1e-2", "+callbacks.checkpoint.save_top_k=-1"]
    return train(compose(*SHORT, *settings), folder=tmp_path_factory.mktemp("run"))


def test_best_is_what_lightning_calls_so(result: TrainResult, tmp_path: Path) -> None:
    folder = result.folder / "checkpoints"
    assert find_checkpoint("last", result.folder) == str(folder / "last.ckpt")
    scores = {path: float(score) for path, score in result.trainer.checkpoint_callback.best_k_models.items()}  # type: ignore[union-attr]
    best = find_checkpoint("best", result.folder)
    assert best is not None and len(scores) == 2 and best == min(scores, key=lambda path: scores[path])
    # Its place now counts, and not where it was.
    (tmp_path / "checkpoints").mkdir()
    for path in folder.iterdir():
        (tmp_path / "checkpoints" / path.name).write_bytes(path.read_bytes())
    assert find_checkpoint("best", tmp_path) == str(tmp_path / "checkpoints" / Path(best).name)


@pytest.mark.parametrize("copied_last", ["last.ckpt", "step_000006.ckpt", "step_000012.ckpt"])
def test_best_is_what_the_checkpoint_of_the_most_steps_says_in_whatever_order_a_folder_was_copied(
    copied_last: str, result: TrainResult, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name, best in {"step_000006": "step_000006", "step_000012": "step_000012", "last": "step_000006"}.items():
        content = read_checkpoint(result.folder / "checkpoints" / f"{name}.ckpt")
        for state in content["callbacks"].values():
            if state.get("monitor"):
                state["best_model_path"] = f"elsewhere/{best}.ckpt"
        path = tmp_path / "checkpoints" / f"{name}.ckpt"
        write_torch_file(path, content)
        os.utime(path, (10**9, 10**9 + (path.name == copied_last)))
    assert find_checkpoint("best", tmp_path) == str(tmp_path / "checkpoints" / "step_000012.ckpt")


def test_checkpoints_of_another_layout_are_refused_by_all_who_read_them(result: TrainResult, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(result.folder, run)
    for path in (run / "checkpoints").iterdir():
        content = read_checkpoint(path)
        del content["layout_version"]
        write_torch_file(path, content)
    before = files_of(run)
    path = run / "checkpoints" / "last.ckpt"
    message = r"\.ckpt has layout 1, .* train again, or export it with the release that wrote it$"
    cfg = compose(*SHORT, "optimizer.learning_rate=1e-2")
    for cfg.ckpt_path in ("auto", "last", "best", str(path)):
        with pytest.raises(CheckpointError, match=message):
            train(cfg, folder=run)
    with pytest.raises(CheckpointError, match=message):
        train(cfg, folder=tmp_path / "other")
    commands: dict[str, tuple[Callable[[DictConfig], Any], str]] = {
        "export": (export, f"out={tmp_path / 'out'}"),
        "generate": (generate, "prompt=a"),
        "evaluate": (evaluate, "base=false"),
    }
    for name, (command, setting) in commands.items():
        cfg = compose(f"run={run}", setting, config_name=name)
        for cfg.ckpt in ("last", "best", str(path)):
            with pytest.raises(CheckpointError, match=message):
                command(cfg)
    assert files_of(run) == before
    assert path in own_files(run), "overwrite=true removes them all the same"
    torch.save({"pytorch-lightning_version": "2.6.0", "state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match=r"foreign.ckpt is no checkpoint of a run"):
        find_checkpoint(str(tmp_path / "foreign.ckpt"), tmp_path)


def test_what_is_no_checkpoint(result: TrainResult, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a folder; name a file in it"):
        find_checkpoint(str(result.folder), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent.ckpt, which does not exist"):
        find_checkpoint("absent.ckpt", tmp_path)
    for content in (b"", b"some text"):
        (tmp_path / "text.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match="is damaged, or no checkpoint of a run"):
            find_checkpoint(str(tmp_path / "text.ckpt"), tmp_path)
    with pytest.raises(CheckpointError, match=r"bottom.pt is no checkpoint of a run"):
        find_checkpoint(str(result.folder / "parts" / "bottom.pt"), tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.learning_rate=1e-3", r"optimizer.learning_rate was 0.01 and is 0.001"),
        ("data.batch_size=4", r"in the middle of an epoch, .* data.batch_size is 8 and 4"),
        ("peft=lora", "the checkpoint"),
    ],
)
def test_settings_that_a_checkpoint_does_not_fit(setting: str, message: str, result: TrainResult, tmp_path: Path) -> None:
    stopped = train(compose(*SHORT, "optimizer.learning_rate=1e-2", "trainer.max_steps=4"), folder=tmp_path / "stopped")
    path = stopped.folder / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=message):
        train(compose(*SHORT, "optimizer.learning_rate=1e-2", setting, f"ckpt_path={path}"), folder=tmp_path / "other")


def test_a_run_that_did_not_begin_leaves_the_earlier_one_alone(tmp_path: Path) -> None:
    train(compose(*SHORT, "trainer.max_steps=2"), folder=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="precision"):
        train(compose(*SHORT, "ckpt_path=last", "trainer.precision=bf16"), folder=tmp_path)
    with pytest.raises(ValueError, match=r"optimizer.learning_rate was"):
        train(compose(*SHORT, "ckpt_path=last", "optimizer.learning_rate=1"), folder=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def files_of(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_in_a_folder_is_refused_or_takes_the_place_of_the_first(tmp_path: Path) -> None:
    train(compose(*SHORT, "trainer.max_steps=2", "peft=lora"), folder=tmp_path)
    (tmp_path / "notes.txt").write_text("somebody's own")
    (tmp_path / "checkpoints" / "other.ckpt").write_bytes(b"somebody's own")
    before = files_of(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds a run already; go on with ckpt_path=last, .*overwrite=true"):
        train(compose(*SHORT, "trainer.max_steps=2"), folder=tmp_path)
    with pytest.raises(CheckpointError, match="is in the run that it would remove"):
        train(compose(*SHORT, "overwrite=true", "ckpt_path=last"), folder=tmp_path)
    with pytest.raises(ValueError, match="precision"):
        train(compose(*SHORT, "overwrite=true", "trainer.precision=bf16"), folder=tmp_path)
    assert files_of(tmp_path) == before, "what is refused leaves everything as it was"
    train(compose(*SHORT, "trainer.max_steps=3", "save_parts=false", "overwrite=true"), folder=tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        LOCK_FILE,
        "checkpoints/last.ckpt",
        "checkpoints/other.ckpt",
        "checkpoints/step_000003.ckpt",
        "config.yaml",
        "memory_report.json",
        "metrics/hparams.yaml",
        "metrics/metrics.csv",
        "notes.txt",
        "prompt_format.json",
        "summary.json",
    }
    with pytest.raises(FileNotFoundError, match=r"has no parts/bottom.pt; .* train with save_parts=true"):
        export(compose(f"run={tmp_path}", f"out={tmp_path / 'out'}", config_name="export"))


def test_a_killed_run_is_a_run_too(tmp_path: Path) -> None:
    """A run that was killed leaves a configuration, and checkpoints or not."""
    train(compose(*SHORT, "trainer.max_steps=2", "save_parts=false"), folder=tmp_path)
    (tmp_path / "summary.json").unlink()
    before = files_of(tmp_path)
    with pytest.raises(CheckpointError, match="holds a run already"):
        train(compose(*SHORT, "trainer.max_steps=2"), folder=tmp_path)
    assert files_of(tmp_path) == before
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match="holds a run already"):
        train(compose(*SHORT, "trainer.max_steps=2"), folder=tmp_path)
    # Nothing was trained that would be lost.
    train(compose(*SHORT, "trainer.max_steps=2", "ckpt_path=auto"), folder=tmp_path)
    resumed = train(compose(*SHORT, "trainer.max_steps=3", "ckpt_path=auto"), folder=tmp_path)
    assert resumed.metrics["train_tokens"] == 3 * 8 * 128


@pytest.mark.parametrize("name", ["config.yaml", "summary.json"])
def test_files_of_other_origin_are_never_written_over(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"a": 1}')
    for more in ([], ["overwrite=true"]):
        with pytest.raises(CheckpointError, match=f"{name} was not written by a run of splitlearn"):
            train(compose(*SHORT, *more), folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, LOCK_FILE}


@pytest.mark.parametrize("length", [["trainer.max_steps=2"], ["trainer.max_epochs=1", "data.max_train_blocks=16"]])
def test_a_finished_run_changes_nothing_when_it_is_started_again(length: list[str], tmp_path: Path) -> None:
    train(compose(*SHORT, *length), folder=tmp_path)
    before = files_of(tmp_path)
    for which in ("last", "auto"):
        with pytest.raises(FinishedRunError, match="is finished: it has t"):
            train(compose(*SHORT, *length, f"ckpt_path={which}"), folder=tmp_path)
    assert files_of(tmp_path) == before


def test_a_run_that_stopped_early_is_finished(tmp_path: Path) -> None:
    settings = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=5"]
    settings += ["eval_steps=1", "trainer.max_epochs=9"]
    result = train(compose(*SHORT, *settings), folder=tmp_path)
    assert result.metrics["train_steps"] == 2, "eval_steps decides when it looks"
    with pytest.raises(FinishedRunError, match="it has stopped early"):
        train(compose(*SHORT, *settings, "ckpt_path=last"), folder=tmp_path)


def test_the_metrics_of_the_first_piece_are_kept(tmp_path: Path) -> None:
    train(compose(*SHORT, "trainer.max_steps=2"), folder=tmp_path)
    logged = (tmp_path / "metrics" / "metrics.csv").read_text()
    train(compose(*SHORT, "trainer.max_steps=3", "ckpt_path=last"), folder=tmp_path)
    assert (tmp_path / "metrics_until_resume_1" / "metrics.csv").read_text() == logged
