"""When the held-out loss is measured and what is kept, over accumulated batches, epochs and a resume."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from splitlearn.app import TrainResult, compose, train

# 9 batches, two for each step, make 5 steps in an epoch, the last of a single batch.
SETTINGS = (
    "data.max_train_blocks=36",
    "data.batch_size=4",
    "data.block_size=32",
    "data.max_val_blocks=4",
    "trainer.accumulate_grad_batches=2",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "verbose=false",
    "save_parts=false",
    "eval_steps=3",
    "keep_steps=4",
    "save_top_k=-1",
)


def run(folder: Path, *more: str) -> TrainResult:
    return train(compose(*SETTINGS, *more), folder=folder)


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def held_out_losses(folder: Path) -> list[str]:
    with (folder / "metrics" / "metrics.csv").open(newline="") as file:
        return [row["val_loss"] for row in csv.DictReader(file) if row.get("val_loss")]


def parameters(result: TrainResult) -> dict[str, Any]:
    return dict(result.module.named_parameters())


def test_losses_are_measured_by_steps_and_where_the_run_ends(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    steps = [3, 4, 6, 8, 9, 10]
    assert kept(tmp_path / "whole") == ["last.ckpt", *(f"step_{step:06d}.ckpt" for step in steps)]
    # The base model's loss comes first, then those of the steps 3, 6, 9 and 10.
    losses = held_out_losses(tmp_path / "whole")
    assert len(losses) == 5
    assert float(losses[-1]) == whole.metrics["val_loss_after"]
    checkpoint = tmp_path / "whole" / "checkpoints" / "step_000004.ckpt"
    resumed = run(tmp_path / "resumed", f"ckpt_path={checkpoint}")
    assert kept(tmp_path / "resumed") == ["last.ckpt", *(f"step_{step:06d}.ckpt" for step in (6, 8, 9, 10))]
    assert held_out_losses(tmp_path / "resumed")[-3:] == losses[-3:]
    expected = parameters(whole)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in parameters(resumed).items())
