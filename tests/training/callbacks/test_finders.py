"""The searches find something, say it, use it, and leave no other trace."""

import json
import resource
from pathlib import Path

import psutil
import pytest

from splitlearn.app import compose, train
from splitlearn.data import BlockDataModule
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import finders

SHORT = ["data.max_train_blocks=96", "data.max_val_blocks=4", "save_parts=false", "verbose=false", "trainer.max_epochs=1"]
RATE = [*SHORT, "callbacks=find_learning_rate", "callbacks.learning_rate_finder.num_training_steps=20"]
SIZE = [*SHORT, "callbacks=find_batch_size", "callbacks.batch_size_finder.max_val=16"]


def test_the_learning_rate_found_is_the_schedules_peak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = train(compose(*RATE), folder=tmp_path / "found")
    rate = json.loads((tmp_path / "found" / "summary.json").read_text())["learning_rate"]
    assert f"learning rate {rate:.2e}: where the loss falls fastest" in capsys.readouterr().out
    assert 1e-6 < rate < 0.1
    assert rate != compose().optimizer.learning_rate
    assert {group["initial_lr"] for group in found.trainer.optimizers[0].param_groups} == {rate}
    given = train(compose(*SHORT, f"optimizer.learning_rate={rate!r}"), folder=tmp_path / "given")
    assert found.metrics["val_loss_after"] == given.metrics["val_loss_after"], "as if the rate had been given"
    assert not list((tmp_path / "found").glob(".lr_find*"))


def test_a_resumed_run_keeps_its_learning_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(compose(*RATE), folder=tmp_path)
    capsys.readouterr()
    again = train(compose(*RATE, "ckpt_path=last", "trainer.max_epochs=2"), folder=tmp_path)
    assert "where the loss falls fastest" not in capsys.readouterr().out
    rates = [{group["initial_lr"] for group in each.trainer.optimizers[0].param_groups} for each in (first, again)]
    assert rates[0] == rates[1] == {again.module.learning_rate}
    assert json.loads((tmp_path / "summary.json").read_text())["learning_rate"] == first.module.learning_rate


def test_a_part_keeps_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    found = train(compose(*RATE, "+optimizer.parts.top.learning_rate=1e-5"), folder=tmp_path)
    rates = {group["name"]: group["initial_lr"] for group in found.trainer.optimizers[0].param_groups}
    assert rates["top"] == 1e-5
    assert rates["bottom"] == rates["trunk"] == found.module.learning_rate != 1e-5


def test_no_rate_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.tuner.lr_finder._LRFinder.suggestion", lambda self: None)
    with pytest.raises(ValueError, match=r"no learning rate could be found between 1e-06 and 0\.1 in 20 steps; allow more"):
        train(compose(*RATE, "callbacks.learning_rate_finder.num_training_steps=20"), folder=tmp_path)


def test_the_batch_size_found_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modes: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr(SplitCausalLM, "on_train_batch_start", lambda module, *_: modes.append(module.composed.training))
        found = train(compose(*SIZE), folder=tmp_path / "found")
    assert modes and all(modes), "dropout is on"
    assert capsys.readouterr().out.count("batch size 16\n") == 1
    assert json.loads((tmp_path / "found" / "summary.json").read_text())["batch_size"] == 16
    assert found.metrics["train_steps"] == 96 / 16
    given = train(compose(*SHORT, "data.batch_size=16"), folder=tmp_path / "given")
    assert found.metrics["val_loss_after"] == given.metrics["val_loss_after"]
    again = train(compose(*SIZE, "ckpt_path=last", "trainer.max_epochs=2"), folder=tmp_path / "found")
    assert isinstance(again.datamodule, BlockDataModule)
    assert again.datamodule.batch_size == 16
    # Of the whole run, both epochs.
    assert again.metrics["train_steps"] == 2 * 96 / 16


def test_on_the_cpu_the_search_ends_where_free_memory_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finders, "_SHARE_OF_FREE", 700e6 / psutil.virtual_memory().available)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    many = ["data.max_train_blocks=2000", "callbacks.batch_size_finder.max_val=8192", "trainer.max_steps=1"]
    found = train(compose(*SIZE, *many), folder=tmp_path)
    assert isinstance(found.datamodule, BlockDataModule)
    assert 1 <= found.datamodule.batch_size < 512
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
