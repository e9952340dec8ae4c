"""What belongs to an optimizer step beside the optimizer's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.loading import ModelFactory
from splitlearn.model import SplitModel
from splitlearn.training.optimization import Optimization
from splitlearn.training.step_owner import StepOwner


@pytest.fixture
def parts(tiny_checkpoint: Callable[..., Path]) -> list[SplitModel]:
    """Return three parts whose parameters have gradients."""
    parts = list(ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 2, 4, trained=("bottom", "trunk", "top")))
    give_gradients(parts)
    return parts


def give_gradients(parts: list[SplitModel]) -> None:
    generator = torch.Generator().manual_seed(0)
    for part in parts:
        for parameter in part.parameters():
            parameter.requires_grad_()
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def gradients_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


@pytest.mark.parametrize("algorithm", ["norm", "value", None])
def test_clipping_is_torchs_to_the_bit(algorithm: str | None, parts: list[SplitModel]) -> None:
    step = StepOwner(parts)
    optimizer = step.make_optimizer(Optimization())
    norm = step.clip(optimizer, 0.5, algorithm, measures=True)
    clipped = gradients_of(optimizer)
    give_gradients(parts)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if algorithm == "value":
        expected = torch.nn.utils.get_total_norm(gradients_of(optimizer))
        torch.nn.utils.clip_grad_value_(parameters, 0.5)
    else:
        expected = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    assert norm is not None and torch.equal(norm, expected)
    assert all(torch.equal(one, other) for one, other in zip(clipped, gradients_of(optimizer), strict=True))


@pytest.mark.parametrize("clip_val", [None, 0.0])
def test_a_norm_that_nobody_needs_is_not_measured(clip_val: float | None, parts: list[SplitModel]) -> None:
    step = StepOwner(parts)
    optimizer = step.make_optimizer(Optimization())
    before = gradients_of(optimizer)
    assert step.clip(optimizer, clip_val, None, measures=False) is None
    measured = step.clip(optimizer, clip_val, None, measures=True)
    assert measured is not None and measured > 1
    assert all(torch.equal(one, other) for one, other in zip(before, gradients_of(optimizer), strict=True))


def test_gradients_are_scaled_to_the_mean_over_the_tokens_of_a_step(parts: list[SplitModel]) -> None:
    step = StepOwner(parts)
    optimizer = step.make_optimizer(Optimization())
    before = gradients_of(optimizer)
    assert not step.is_under_way
    assert [step.count(4), step.count(12)] == [4, 4] and step.is_under_way
    step.scale_gradients(optimizer)
    assert not step.is_under_way
    assert all(torch.equal(one * 0.25, other) for one, other in zip(before, gradients_of(optimizer), strict=True))


def test_an_unfinished_step_goes_on_from_a_checkpoint(parts: list[SplitModel]) -> None:
    step, resumed = StepOwner(parts), StepOwner(parts)
    optimizer = step.make_optimizer(Optimization())
    before = gradients_of(optimizer)
    step.count(4)
    checkpoint: dict[str, Any] = {"optimizer_states": [optimizer.state_dict()]}
    step.add_state(checkpoint)
    assert checkpoint["state_dict"].keys() == step.trained_names()
    checkpoint = copy.deepcopy(checkpoint)
    optimizer.zero_grad()
    resumed.take_state(checkpoint)
    resumed.begin()
    assert resumed.is_under_way and resumed.count(1) == 4
    assert all(torch.equal(one, other) for one, other in zip(before, gradients_of(optimizer), strict=True))
    resumed.begin()
    assert not resumed.is_under_way, "a second run begins anew"
