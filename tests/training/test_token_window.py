import pytest
import torch

from splitlearn.training.token_window import TokenWindow


def gradient_after(losses: list[float], counts: list[int]) -> float:
    """Return the gradient of summed losses, each scaled as the window says."""
    parameter = torch.nn.Parameter(torch.ones(()))
    window = TokenWindow()
    for loss, count in zip(losses, counts, strict=True):
        (parameter * loss / window.add(count)).backward()
    window.close([parameter])
    return float(parameter.grad)  # type: ignore[arg-type]


def test_one_micro_batch_is_divided_by_its_own_count() -> None:
    assert gradient_after([12.0], [4]) == 3.0


def test_micro_batches_are_divided_by_the_count_of_all() -> None:
    assert gradient_after([12.0, 3.0, 6.0], [4, 1, 2]) == pytest.approx(3.0)


def test_micro_batches_without_tokens_do_not_divide_by_zero() -> None:
    assert gradient_after([0.0, 6.0], [0, 2]) == 3.0
    assert gradient_after([0.0], [0]) == 0.0


def test_a_window_begins_anew() -> None:
    window = TokenWindow()
    assert window.add(5) == 5 and window.add(3) == 5
    window.close([])
    assert window.add(2) == 2
