"""The distance correlation of a plain loop over pairs."""

from __future__ import annotations

import pytest
import torch

from splitlearn.defences import distance_correlation


def plain(x: list[list[float]], y: list[list[float]]) -> float:
    """Székely's definition, pair by pair."""

    def centred(rows: list[list[float]]) -> list[list[float]]:
        number = len(rows)
        distances = [[sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 for other in rows] for one in rows]
        means = [sum(row) / number for row in distances]
        whole = sum(means) / number
        return [[distances[i][j] - means[i] - means[j] + whole for j in range(number)] for i in range(number)]

    def product(one: list[list[float]], other: list[list[float]]) -> float:
        pairs = [a * b for row, column in zip(one, other, strict=True) for a, b in zip(row, column, strict=True)]
        return sum(pairs) / len(pairs)

    a, b = centred(x), centred(y)
    return float((product(a, b) / (product(a, a) * product(b, b)) ** 0.5) ** 0.5)


@pytest.mark.parametrize("number", [2, 7, 40])
def test_it_is_that_of_the_definition(number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    x_ND = torch.randn(number, 5, generator=generator, dtype=torch.float64)
    # Like hidden states: some numbers are enormous beside the others.
    y_NE = torch.cat([x_ND[:, :2] ** 2, 1e3 + torch.randn(number, 3, generator=generator, dtype=torch.float64)], dim=1)
    expected = plain(x_ND.tolist(), y_NE.tolist())
    assert float(distance_correlation(x_ND, y_NE)) == pytest.approx(expected, rel=1e-9)
    assert float(distance_correlation(x_ND.float(), y_NE.float())) == pytest.approx(expected, rel=1e-3)


def test_its_ends() -> None:
    x_ND = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    assert float(distance_correlation(x_ND, 3 * x_ND + 1)) == pytest.approx(1)
    other = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    assert float(distance_correlation(x_ND, other)) < 0.25
    assert float(distance_correlation(x_ND, torch.ones(300, 2))) < 1e-6


def test_gradients_are_finite_where_vectors_are_equal() -> None:
    x_ND = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for y_NE in (torch.ones(6, 3, requires_grad=True), x_ND[[0, 0, 1, 1, 2, 2]].clone().requires_grad_()):
        distance_correlation(x_ND, y_NE).backward()
        assert y_NE.grad is not None and y_NE.grad.isfinite().all()
