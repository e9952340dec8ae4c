"""Which checkpoint a run goes on from, and what it must fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from splitlearn.app import TrainResult, compose, export, train
from splitlearn.app.checkpoints import find_checkpoint
from splitlearn.checkpoint import CheckpointError

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
    assert len(scores) == 2 and best == min(scores, key=lambda path: scores[path])
    # Its place now counts, and not where it was.
    (tmp_path / "checkpoints").mkdir()
    for path in folder.iterdir():
        (tmp_path / "checkpoints" / path.name).write_bytes(path.read_bytes())
    assert find_checkpoint("best", tmp_path) == str(tmp_path / "checkpoints" / Path(best).name)


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


def test_a_second_run_in_a_folder_leaves_nothing_of_the_first_to_be_taken_for_its_own(tmp_path: Path) -> None:
    train(compose(*SHORT, "trainer.max_steps=2"), folder=tmp_path)
    logged = (tmp_path / "metrics" / "metrics.csv").read_text()
    train(compose(*SHORT, "trainer.max_steps=2", "save_parts=false"), folder=tmp_path)
    assert (tmp_path / "metrics_until_resume_1" / "metrics.csv").read_text() == logged
    assert json.loads((tmp_path / "summary.json").read_text())["saved_parts"] is None
    with pytest.raises(FileNotFoundError, match=r"has no parts/bottom.pt; train with save_parts=true"):
        export(compose(f"run={tmp_path}", f"out={tmp_path / 'out'}", config_name="export"))
