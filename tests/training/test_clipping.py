"""Norms are torch's to the bit, whether gradients are here or only their norms are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitlearn.training.clipping import clip_coefficient, parameters_of, total_norm

SHAPES = {"bottom": [(7, 5), (40,)], "trunk": [(8, 8), (3,)], "top": [(100,), (2, 2, 2)]}


def make_optimizer(elsewhere: tuple[str, ...] = (), half: tuple[str, ...] = ()) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    """Return an optimizer of parameters with gradients, without those of ``elsewhere``, and the norms of the latter."""
    generator = torch.Generator().manual_seed(0)
    groups, norms = [], {}
    for name, shapes in SHAPES.items():
        parameters = []
        for shape in shapes:
            dtype = torch.bfloat16 if name in half else torch.float32
            parameters.append(torch.nn.Parameter(torch.zeros(shape, dtype=dtype)))
            parameters[-1].grad = torch.randn(shape, generator=generator).to(dtype)
        if name in elsewhere:
            norms[name] = [torch.linalg.vector_norm(parameter.grad) for parameter in parameters if parameter.grad is not None]
            parameters = []
        groups.append({"params": parameters, "name": name})
    return torch.optim.SGD(groups, lr=0.1), norms


@pytest.mark.parametrize("half", [(), ("trunk",)])
@pytest.mark.parametrize("elsewhere", [(), ("trunk",), ("bottom", "top"), ("bottom", "trunk", "top")])
def test_a_norm_elsewhere_stands_for_its_gradient(elsewhere: tuple[str, ...], half: tuple[str, ...]) -> None:
    whole, _ = make_optimizer(half=half)
    expected = torch.nn.utils.clip_grad_norm_(parameters_of(whole), 0.5)
    optimizer, norms = make_optimizer(elsewhere, half)
    assert torch.equal(total_norm(optimizer, norms), expected)


@pytest.mark.parametrize("max_norm", [0.5, 1000.0])
def test_gradients_elsewhere_are_clipped_as_torch_clips_those_here(max_norm: float) -> None:
    optimizer, _ = make_optimizer()
    gradients = [parameter.grad.clone() for parameter in parameters_of(optimizer) if parameter.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters_of(optimizer), max_norm)
    coefficient = clip_coefficient(norm, max_norm)
    clipped = [parameter.grad for parameter in parameters_of(optimizer)]
    assert all(torch.equal(before * coefficient, after) for before, after in zip(gradients, clipped, strict=True))  # type: ignore[arg-type]


def test_without_gradients_the_norm_is_nothing() -> None:
    assert total_norm(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))])) == 0
