"""The least time that computing a step takes on this machine, before there is a model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from splitlearn.cut import SplitPlan
from splitlearn.model import Blueprint

# A multiplication and an addition for each weight and token: forward, for the input's gradient, and for the weight's.
_OPERATIONS = 2 * 3
_SIDE = 1024
_REPEATS = 3


def least_compute_s(blueprint: Blueprint, plan: SplitPlan, devices: Mapping[str, str], num_tokens: int) -> float:
    """Return how long the linear layers of a training step take at the speed of one large multiplication on each device.

    It is a lower bound: attention, norms and the optimizer's step come on top, and layers are slower than one large
    multiplication. All weights count as trained.

    Args:
        blueprint: the unsplit model's structure.
        plan: where it is cut.
        devices: the device of each part.
        num_tokens: tokens of a step (B x T).
    """
    speeds = {device: _operations_per_s(torch.device(device), blueprint.dtype) for device in set(devices.values())}
    linear = [(f"{path}.weight", module.weight.numel()) for path, module in _linear_layers(blueprint)]
    seconds = 0.0
    for part in plan.parts:
        num_weights = sum(count for name, count in linear if blueprint.belongs_to(name, part))
        seconds += _OPERATIONS * num_weights * num_tokens / speeds[devices[part.name]]
    return seconds


def _linear_layers(blueprint: Blueprint) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    for path, module in blueprint.meta_model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            yield path, module


def _operations_per_s(device: torch.device, dtype: torch.dtype) -> float:
    matrix = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    best_s = float("inf")
    for _ in range(_REPEATS):
        begin_s = time.perf_counter()
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best_s = min(best_s, time.perf_counter() - begin_s)
    return float(2 * _SIDE**3 / best_s)
