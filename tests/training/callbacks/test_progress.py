import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import RichProgressBar

from splitlearn.app import compose, train
from splitlearn.training.callbacks import LineProgress, make_progress


def test_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert isinstance(make_progress(), RichProgressBar)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert isinstance(make_progress(), LineProgress)


def test_lines_tell_epoch_batch_and_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["trainer.max_epochs=2", "data.max_train_blocks=24", "data.max_val_blocks=4", "save_parts=false", "verbose=false"]
    train(compose(*short, "callbacks.progress.interval_s=0"), folder=tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == [
        f"epoch {epoch}, {place}" for epoch in (1, 2) for place in ("batch 1 of 3", "batch 2 of 3", "batch 3 of 3", "done")
    ]
    assert all("train_loss" in line for line in lines)
