"""A run with noise, or with what both ends remember, goes on to the bit."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule

from splitlearn.boundary import CallKind
from splitlearn.checkpoint import CheckpointError
from splitlearn.data.resumable import ResumableLoader
from splitlearn.training import parts_module as module_of_training
from tests.training import test_resume
from tests.training.test_resume import BATCH, BATCHES, ROWS, Losses, check, run

CLIPPED = {"codec": "gaussian", "clip": 30.0, "noise_multiplier": 0.01}
BOUNDARIES: dict[str, Any] = {
    "reuse": {"forward": {"codec": "reuse", "threshold": 0.03}, "backward": {"codec": "reuse", "threshold": 0.5}},
    "reuse with int8": {"forward": ["reuse", "int8"], "backward": "exact"},
    "gaussian": {"forward": {"codec": "gaussian", "noise_rms": 0.3}, "cut_2": {"backward": CLIPPED}},
}
RUNS_OF_NOISE: dict[str, Any] = {
    "secret": {},
    "secret again": {},
    "public": {"privacy": {"reproducible_noise": True}},
    "public again": {"privacy": {"reproducible_noise": True}},
}


class NumberedRows(LightningDataModule):
    """The rows of `test_resume`, with the ids that a data module gives them."""

    def __init__(self, num_workers: int) -> None:
        super().__init__()

    def train_dataloader(self) -> ResumableLoader:
        ids = torch.randint(3, 99, (ROWS, 9), generator=torch.Generator().manual_seed(0))
        rows = [{"input_ids": row, "labels": row, "row": torch.tensor(number)} for number, row in enumerate(ids)]
        return ResumableLoader(rows, BATCH, seed=1, num_workers=0)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_stopped_and_taken_up(
    boundary: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_resume, "Rows", NumberedRows)
    # Two runs that are compared need one secret; the one that goes on has its own at first.
    keys = iter(["the secret", "the secret", "another secret"])
    monkeypatch.setattr(module_of_training, "new_key", lambda: next(keys))
    model, settings = tiny_checkpoint("llama"), {"boundary": BOUNDARIES[boundary]}
    whole = run(model, tmp_path / "whole", **settings)
    signal_at = BATCHES + 2
    with pytest.raises(SystemExit):
        run(model, tmp_path / "stopped", signal_at=signal_at, number=signal.SIGTERM, **settings)
    stopped = Losses()
    stopped.losses = dict(list(whole[1].losses.items())[: signal_at + 1])
    module, resumed = run(model, tmp_path / "stopped", ckpt_path=tmp_path / "stopped" / "last.ckpt", **settings)
    check(whole, [stopped, resumed], module)
    ends = [end.composed.codec_states() for end in (whole[0], module)]
    assert_equal(*ends)
    if boundary == "gaussian":
        assert ends[1]["cut_2/gradient"]["train"]["by_row"].tolist() == [3] * ROWS, "once in each epoch"
    else:
        # Some tokens are sent again, and some are not.
        sent = module.composed.meter.totals(CallKind.TRAIN)["cut_1"]["activation_uplink_bytes"]
        assert 0 < sent < 2 * BATCHES * BATCH * 9 * 64 * 4


def test_secret_noise_is_not_that_of_the_seed_and_stays_what_it_was(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_resume, "Rows", NumberedRows)
    model, settings = tiny_checkpoint("llama"), dict[str, Any](boundary=BOUNDARIES["gaussian"], max_steps=3)
    public: dict[str, Any] = {"privacy": {"reproducible_noise": True}}
    runs = {name: run(model, tmp_path / name, **settings, **more) for name, more in RUNS_OF_NOISE.items()}
    losses = {name: list(of_run[1].losses.values()) for name, of_run in runs.items()}
    # The first gradient with secret noise is used in the second step.
    assert losses["public"] == losses["public again"] and losses["secret"][1:] != losses["secret again"][1:]
    state = torch.load(tmp_path / "secret" / "last.ckpt", weights_only=True)["generators"]
    assert len(state["key"]) == 64
    for before, now, words in (
        ("secret", public, "is a secret; go on with privacy.reproducible_noise=false"),
        ("public", {}, "follows from the run's seed, so that no epsilon holds; go on with privacy.reproducible_noise=true"),
    ):
        with pytest.raises(CheckpointError, match=words):
            run(model, tmp_path / "on", ckpt_path=tmp_path / before / "last.ckpt", **settings, **now)


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
