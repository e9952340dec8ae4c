"""Comparing a run in one process with the same run with servers."""

from __future__ import annotations

from typing import Any

import torch

from splitlearn.app import TrainResult
from splitlearn.runs import RunSummary, read_summary
from splitlearn.training.callbacks import LAST


def content(result: TrainResult) -> dict[str, Any]:
    """Return the content of a run's last checkpoint."""
    loaded: dict[str, Any] = torch.load(result.folder / "checkpoints" / LAST, weights_only=True)
    return loaded


def assert_alike(one: TrainResult, two: TrainResult) -> RunSummary:
    """Fail unless losses, weights and traffic of two runs are equal to the bit; return the record of the second."""
    for name in ("val_loss_before", "val_loss_after"):
        assert one.metrics[name] == two.metrics[name]
    expected, found = content(one), content(two)
    assert expected["state_dict"].keys() == found["state_dict"].keys()
    assert all(tensor.equal(found["state_dict"][name]) for name, tensor in expected["state_dict"].items())
    records = [read_summary(result.folder) for result in (one, two)]
    assert records[0] is not None and records[1] is not None
    assert records[0].traffic == records[1].traffic
    return records[1]
