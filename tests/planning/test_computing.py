"""The least time of computing a step, from operations and the speed of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitlearn.loading import ModelRequest
from splitlearn.planning import computing, least_compute_s


def test_operations_over_speed(tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = ModelRequest(str(tiny_checkpoint("llama")), 2, 4).open()
    speeds = {"cpu": 1e9, "cuda:0": 1e12}
    monkeypatch.setattr(computing, "_operations_per_s", lambda device, dtype: speeds[str(device)])
    # Of 6 layers: attention with 4 heads of 16 and 2 of keys and values, the three matrices of the MLP; and the head.
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 96
    head = 64 * 99
    everywhere = dict.fromkeys(("bottom", "trunk", "top"), "cpu")
    seconds = least_compute_s(opened.blueprint, opened.plan, everywhere, 100)
    assert seconds == pytest.approx(6 * 100 * (6 * layer + head) / 1e9)
    moved = least_compute_s(opened.blueprint, opened.plan, {**everywhere, "trunk": "cuda:0"}, 100)
    assert moved == pytest.approx(6 * 100 * ((4 * layer + head) / 1e9 + 2 * layer / 1e12))


def test_the_speed_of_this_machine_is_measured() -> None:
    assert 1e8 < computing._operations_per_s(torch.device("cpu"), torch.float32) < 1e14
