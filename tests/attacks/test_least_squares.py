from __future__ import annotations

import torch

from splitlearn.attacks.least_squares import solve_least_squares

GENERATOR = torch.Generator().manual_seed(0)
MATRICES_NRC = torch.randn(3, 9, 6, dtype=torch.float64, generator=GENERATOR)
TRUE_NC = torch.randn(3, 6, dtype=torch.float64, generator=GENERATOR)


def solve(target_NR: torch.Tensor, num_steps: int, most: int = 100, start: torch.Tensor | None = None) -> torch.Tensor:
    taken: list[int] = []

    def may_step() -> bool:
        taken.append(1)
        return len(taken) <= most

    def multiply(x_NC: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nrc,nc->nr", MATRICES_NRC, x_NC)

    def multiply_transposed(y_NR: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nrc,nr->nc", MATRICES_NRC, y_NR)

    return solve_least_squares(multiply, multiply_transposed, target_NR, num_steps, may_step, start)


def test_the_solution_of_consistent_equations_is_found() -> None:
    target_NR = torch.einsum("nrc,nc->nr", MATRICES_NRC, TRUE_NC)
    torch.testing.assert_close(solve(target_NR, num_steps=6), TRUE_NC)
    torch.testing.assert_close(solve(target_NR, num_steps=50), TRUE_NC, msg="more steps than unknowns spoil nothing")
    near = TRUE_NC + 0.01
    torch.testing.assert_close(solve(target_NR, num_steps=6, start=near), TRUE_NC)


def test_inconsistent_equations_are_solved_in_the_least_squares_sense() -> None:
    target_NR = torch.randn(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected_NC = torch.linalg.lstsq(MATRICES_NRC, target_NR[..., None]).solution[..., 0]
    torch.testing.assert_close(solve(target_NR, num_steps=6), expected_NC)


def test_the_budget_ends_it() -> None:
    target_NR = torch.einsum("nrc,nc->nr", MATRICES_NRC, TRUE_NC)
    errors = [float((solve(target_NR, num_steps=6, most=most) - TRUE_NC).norm()) for most in (0, 2, 6)]
    assert errors[0] == float(TRUE_NC.norm()) > errors[1] > errors[2]
