"""A run that was interrupted and taken up again is, to the bit, the run that was not."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file, save_file

from splitlearn.checkpoint import CheckpointError
from splitlearn.data.resumable import EpochOrder, ResumableLoader
from splitlearn.training import SplitCausalLM, SplitPrecision, SplitStrategy
from splitlearn.training.callbacks import ExactResume, LastCheckpoint
from splitlearn.training.callbacks.exact_resume import read_generators, set_generators
from splitlearn.training.checkpoint_io import WholeFileCheckpointIO
from splitlearn.training.part_owner import PartElsewhere
from tests.training.stand_in import stand_in
from tests.training.test_module import CPU, OPTIMIZER

ROWS, BATCH = 22, 4
BATCHES = 6


class Rows(LightningDataModule):
    def __init__(self, num_workers: int) -> None:
        super().__init__()
        self._num_workers = num_workers

    def train_dataloader(self) -> ResumableLoader:
        ids = torch.randint(3, 99, (ROWS, 9), generator=torch.Generator().manual_seed(0))
        rows = [{"input_ids": row, "labels": row, "row": torch.tensor(number)} for number, row in enumerate(ids)]
        return ResumableLoader(rows, BATCH, seed=1, num_workers=self._num_workers)


class Losses(Callback):
    """Notes each batch's loss, and sends the process a signal in one of them."""

    def __init__(self, signal_at: int | None = None, number: int = signal.SIGTERM) -> None:
        self.losses: dict[tuple[int, int], float] = {}
        self._signal_at = signal_at
        self._number = number

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch * BATCHES + batch_idx == self._signal_at:
            os.kill(os.getpid(), self._number)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses[trainer.current_epoch, batch_idx] = float(outputs["loss"])


def run(
    model: Path,
    folder: Path,
    *,
    num_workers: int = 0,
    accumulate: int = 1,
    signal_at: int | None = None,
    ckpt_path: Path | None = None,
    number: int = signal.SIGTERM,
    every_n_steps: int | None = None,
    more: Sequence[Callback] = (),
    max_steps: int = -1,
    logger: Any = False,
    trunk_elsewhere: bool = False,
    **settings: Any,
) -> tuple[SplitCausalLM, Losses]:
    torch.manual_seed(11)
    np.random.seed(11)
    module = SplitCausalLM(str(model), 2, 4, **{"optimizer": OPTIMIZER, **settings})
    if trunk_elsewhere:
        trunk, _ = stand_in(model, (2, 4), module.settings, module.generators)
        module.connect({"trunk": cast(PartElsewhere, trunk)})
    losses = Losses(signal_at, number)
    callbacks: list[Callback] = [
        LastCheckpoint(folder, every_n_train_steps=every_n_steps),
        *([ModelCheckpoint(folder, every_n_train_steps=every_n_steps)] if every_n_steps else []),
        ExactResume(),
        losses,
        *more,
    ]
    strategy = SplitStrategy(CPU, precision_plugin=SplitPrecision("32-true", CPU), checkpoint_io=WholeFileCheckpointIO())
    trainer = Trainer(
        accelerator="cpu",
        strategy=strategy,
        default_root_dir=folder,
        callbacks=callbacks,
        max_epochs=3,
        max_steps=max_steps,
        accumulate_grad_batches=accumulate,
        logger=logger,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Rows(num_workers), ckpt_path=ckpt_path, weights_only=True)
    return module, losses


def check(whole: tuple[SplitCausalLM, Losses], parts: list[Losses], last: SplitCausalLM) -> None:
    joined: dict[tuple[int, int], float] = {}
    for part in parts:
        assert not joined.keys() & part.losses.keys(), "no batch is trained on twice"
        joined |= part.losses
    assert joined == whole[1].losses
    assert len(joined) == 3 * BATCHES
    expected = dict(whole[0].named_parameters())
    assert all(torch.equal(each, expected[name]) for name, each in last.named_parameters())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("signal_at", [2, BATCHES - 1, BATCHES, 2 * BATCHES + 3])
def test_stopped_and_taken_up(
    num_workers: int, accumulate: int, signal_at: int, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    if num_workers and (accumulate, signal_at) != (1, 2):
        num_workers = 0
    model = tiny_checkpoint("llama")
    settings: dict[str, Any] = {"num_workers": num_workers, "accumulate": accumulate}
    whole = run(model, tmp_path / "whole", **settings)
    stopped = Losses()
    with pytest.raises(SystemExit) as end:
        run(model, tmp_path / "stopped", signal_at=signal_at, **settings)
    assert end.value.code == 128 + signal.SIGTERM
    path = tmp_path / "stopped" / "last.ckpt"
    stored = torch.load(path, weights_only=True)
    done = stored["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    assert signal_at < done <= signal_at + accumulate, "the step under way is finished, and no other"
    stopped.losses = {key: value for key, value in whole[1].losses.items() if key[0] * BATCHES + key[1] < done}
    module, resumed = run(model, tmp_path / "stopped", ckpt_path=path, **settings)
    check(whole, [stopped, resumed], module)


@pytest.mark.parametrize("step", [4, BATCHES, 8])
def test_killed_and_taken_up_from_an_earlier_checkpoint(
    step: int, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """What a checkpoint holds is all that is needed, whatever came after it."""
    model = tiny_checkpoint("llama")
    whole = run(model, tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(model, tmp_path / "stopped", signal_at=step + 1, every_n_steps=step)
    path = next((tmp_path / "stopped").glob(f"epoch=*step={step}.ckpt"))
    module, resumed = run(model, tmp_path / "again", ckpt_path=path)
    assert resumed.losses == {key: value for key, value in whole[1].losses.items() if key[0] * BATCHES + key[1] >= step}
    expected = dict(whole[0].named_parameters())
    assert all(torch.equal(each, expected[name]) for name, each in module.named_parameters())


def test_a_batch_that_was_handed_out_and_not_trained_on_comes_again(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    class BeforeBatch(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "before.ckpt")

    model = tiny_checkpoint("llama")
    whole = run(model, tmp_path / "whole", more=[BeforeBatch()])
    _, resumed = run(model, tmp_path / "again", ckpt_path=tmp_path / "before.ckpt")
    assert resumed.losses == {key: value for key, value in whole[1].losses.items() if key >= (0, 3)}


def test_the_figures_of_the_last_step_are_written(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tiny_checkpoint("llama"), tmp_path, signal_at=2, logger=CSVLogger(tmp_path, name="", version=""))
    with (tmp_path / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["train_loss_step"]] == ["0", "1", "2"]


def test_signals_are_given_back(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as end:
        run(tiny_checkpoint("llama"), tmp_path, signal_at=1, number=signal.SIGINT)
    assert end.value.code == 130
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_every_epoch_has_an_order_of_its_own() -> None:
    order = EpochOrder(50, seed=3)
    orders = []
    for epoch in range(3):
        order.set_epoch(epoch)
        orders.append(list(order))
    assert all(sorted(each) == list(range(50)) for each in orders)
    assert orders[0] != orders[1] != orders[2]
    again = EpochOrder(50, seed=3)
    again.set_epoch(2)
    again.skip = 20
    assert list(again) == orders[2][20:]
    assert list(again) == orders[2], "only the next pass leaves rows out"
    other = EpochOrder(50, seed=4)
    assert list(other) != orders[0]


def test_generators_go_back_to_where_they_were() -> None:
    import random

    state = read_generators()
    drawn = [(random.random(), np.random.rand(), torch.rand(1)) for _ in range(3)]
    set_generators(state)
    assert [(random.random(), np.random.rand(), torch.rand(1)) for _ in range(3)] == drawn


def test_a_checkpoint_of_another_model_is_refused(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tiny_checkpoint("llama"), tmp_path, signal_at=1)
    with pytest.raises(CheckpointError, match=r"saved of another model than this run's: .*rms_norm_eps is 1e-06 and 0.01"):
        run(tiny_checkpoint("llama", rms_norm_eps=1e-2), tmp_path, ckpt_path=tmp_path / "last.ckpt")


def test_a_checkpoint_of_other_frozen_weights_or_adapters_is_refused(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_checkpoint("llama")
    lora: dict[str, Any] = {"method": "lora", "settings": {"r": 2, "target_modules": ["q_proj"]}}
    with pytest.raises(SystemExit):
        run(model, tmp_path, signal_at=1, peft=lora)
    path = tmp_path / "last.ckpt"
    run(model, tmp_path / "same", ckpt_path=path, peft=lora)
    other = {"method": "lora", "settings": {**lora["settings"], "lora_alpha": 64}}
    with pytest.raises(CheckpointError, match=r"peft.settings is .* and .*'lora_alpha': 64"):
        run(model, tmp_path, ckpt_path=path, peft=other)
    copied = shutil.copytree(model, tmp_path / "copied")
    run(copied, tmp_path / "same", ckpt_path=path, peft=lora)
    shard = next(iter(copied.glob("*.safetensors")))
    save_file({name: each + 0.01 for name, each in load_file(shard).items()}, shard, {"format": "pt"})
    with pytest.raises(
        CheckpointError, match="configurations are equal, but the weights that are not trained have other values"
    ):
        run(copied, tmp_path, ckpt_path=path, peft=lora)


class AfterBatch(Callback):
    """Writes a checkpoint after one batch of the first epoch."""

    def __init__(self, number: int, path: Path) -> None:
        self._number, self._path = number, path

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 0 and batch_idx == self._number:
            trainer.save_checkpoint(self._path)


@pytest.mark.parametrize("signal_at", [2, BATCHES - 1])
@pytest.mark.parametrize("step", [1, 2])
def test_a_checkpoint_in_the_middle_of_a_step_holds_its_gradients(
    step: int, signal_at: int, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_checkpoint("llama")
    whole = run(model, tmp_path / "whole", accumulate=2, more=[AfterBatch(2 * step, tmp_path / "middle.ckpt")])
    stored = torch.load(tmp_path / "middle.ckpt", weights_only=True)
    assert all(stored["unfinished_step"]["counts"]) and stored["unfinished_step"]["gradients"]
    module, resumed = run(model, tmp_path / "again", accumulate=2, ckpt_path=tmp_path / "middle.ckpt")
    assert resumed.losses == {key: value for key, value in whole[1].losses.items() if key > (0, 2 * step)}
    expected = dict(whole[0].named_parameters())
    assert all(torch.equal(each, expected[name]) for name, each in module.named_parameters())


@pytest.mark.parametrize("is_elsewhere_first", [True, False])
def test_a_step_under_way_goes_on_with_a_part_elsewhere(
    is_elsewhere_first: bool, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model, path = tiny_checkpoint("llama"), tmp_path / "middle.ckpt"
    first = run(model, tmp_path / "1", accumulate=2, trunk_elsewhere=is_elsewhere_first, more=[AfterBatch(2, path)])
    stored = torch.load(path, weights_only=True)["unfinished_step"]["gradients"]
    assert {int(name.split(".")[2]) for name in stored if ".layers." in name} == set(range(6)), "the trunk's are there, too"
    _, resumed = run(model, tmp_path / "2", accumulate=2, trunk_elsewhere=True, ckpt_path=path)
    assert resumed.losses == {key: value for key, value in first[1].losses.items() if key > (0, 2)}


@pytest.mark.parametrize("max_steps", [4, BATCHES, BATCHES + 2])
def test_a_run_that_ended_by_its_steps_goes_on_with_the_next_batch(
    max_steps: int, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_checkpoint("llama")
    constant = {**OPTIMIZER, "schedule": "constant_with_warmup", "warmup_fraction": 0.0}
    whole = run(model, tmp_path / "whole", optimizer=constant)
    run(model, tmp_path / "first", optimizer=constant, max_steps=max_steps)
    module, resumed = run(model, tmp_path / "first", optimizer=constant, ckpt_path=tmp_path / "first" / "last.ckpt")
    assert resumed.losses == {key: value for key, value in whole[1].losses.items() if key[0] * BATCHES + key[1] >= max_steps}
    expected = dict(whole[0].named_parameters())
    assert all(torch.equal(each, expected[name]) for name, each in module.named_parameters())


@pytest.mark.parametrize("every_n_steps", [None, BATCHES, 4])
@pytest.mark.parametrize("signal_at", [BATCHES - 1, BATCHES, 2 * BATCHES])
def test_a_run_whose_length_is_given_in_steps_counts_each_epoch_once(
    signal_at: int, every_n_steps: int | None, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model, steps = tiny_checkpoint("llama"), 3 * BATCHES
    whole = run(model, tmp_path / "whole", max_steps=steps)
    with pytest.raises(SystemExit):
        run(model, tmp_path / "stopped", signal_at=signal_at, max_steps=steps, every_n_steps=every_n_steps)
    module, resumed = run(model, tmp_path / "stopped", max_steps=steps, ckpt_path=tmp_path / "stopped" / "last.ckpt")
    assert resumed.losses == {key: value for key, value in whole[1].losses.items() if key[0] * BATCHES + key[1] > signal_at}
    assert module.trainer.global_step == steps
    assert module.trainer.fit_loop.epoch_loop._batches_that_stepped == steps, "figures are logged at their steps"
    expected = dict(whole[0].named_parameters())
    assert all(torch.equal(each, expected[name]) for name, each in module.named_parameters())


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    WholeFileCheckpointIO().save_checkpoint({"step": 1}, path)

    def full(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        WholeFileCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
