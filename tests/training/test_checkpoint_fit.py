"""A run goes on from checkpoints of the same run only."""

from __future__ import annotations

from typing import Any

import pytest

from splitlearn.checkpoint import CheckpointError
from splitlearn.training.checkpoint_fit import check_checkpoint

BASE: dict[str, Any] = {"model": None, "commit": None, "dtype": "float32", "base_weights": {}}


def check(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare a checkpoint and a run that differ at most in their settings."""
    cut = {"split_point_1": 2, "split_point_2": 4}
    checkpoint = {"hyper_parameters": {**cut, **saved}, "state_dict": {}, "base": BASE}
    check_checkpoint(checkpoint, {**cut, **now}, BASE, set())


def test_other_rates_are_refused_with_both_values() -> None:
    same = {"learning_rate": 0.1, "weight_decay": 0.0}
    check({"optimizer": same}, {"optimizer": same})
    with pytest.raises(CheckpointError, match=r"with the rates of its checkpoint, but .*learning_rate was 0\.1 and is 0\.2"):
        check({"optimizer": same}, {"optimizer": {**same, "learning_rate": 0.2}})
    of_part = {**same, "parts": {"trunk": {"weight_decay": 0.5}}}
    with pytest.raises(CheckpointError, match=r"parts\.trunk\.weight_decay was None and is 0\.5"):
        check({"optimizer": same}, {"optimizer": of_part})
    # A checkpoint that says nothing of the optimizer holds no rates that would come back.
    check({"optimizer": None}, {"optimizer": of_part})


def test_another_cut_is_refused() -> None:
    with pytest.raises(CheckpointError, match="saved with split_point_2=4, this run has 5"):
        check({}, {"split_point_2": 5})
