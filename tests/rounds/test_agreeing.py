"""What clients agree on before their first round."""

from __future__ import annotations

import numpy as np
import pytest

from splitlearn.rounds.agreeing import agree_on_rounds, common_start


def test_rounds_are_those_that_the_runs_have_left_or_fewer() -> None:
    assert agree_on_rounds([0, 0], [3, 3], 0) == (0, 3)
    assert agree_on_rounds([2, 2], [3, 4], 1) == (2, 1)


@pytest.mark.parametrize(
    ("numbers", "left", "wanted", "sentence"),
    [
        ([0, 1], [3, 2], 0, "have been through 0 and 1 rounds; have all go on from checkpoints of the same step"),
        ([0, 0], [3, 2], 0, r"have 3 and 2 rounds left; have all train for as many steps, or set rounds to a number"),
        ([0, 0], [3, 2], 3, "rounds is 3, but the clients' runs have 3 and 2 left; train them for more steps"),
        ([0, 0], [0, 0], 0, r"no round left; have them train for as many steps as a round has, or more"),
        ([0, 0], [3, 3], -1, "rounds is -1; give the number of rounds, or 0"),
    ],
)
def test_rounds_that_do_not_fit_are_refused(numbers: list[int], left: list[int], wanted: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        agree_on_rounds(numbers, left, wanted)


def test_all_begin_alike() -> None:
    # A mean of equal numbers may differ from them in the last bit.
    same = {"a": np.array([0.1, 0.7], np.float32)}
    assert np.array_equal(common_start([same, dict(same), dict(same)], [1, 1, 5])["a"], same["a"])
    mean = common_start([{"a": np.array([0.0, 4.0], np.float32)}, {"a": np.array([4.0, 0.0], np.float32)}], [1, 3])["a"]
    assert mean.tolist() == [3.0, 1.0] and mean.dtype == np.float32


def test_clients_that_train_other_tensors_are_refused() -> None:
    one, other = {"a": np.zeros(2)}, {"a": np.zeros(3)}
    with pytest.raises(
        ValueError, match=r"of the tensor a one client has it in the shape \(2,\) and another has it in the shape"
    ):
        common_start([one, other], [1, 1])
    with pytest.raises(ValueError, match="and another does not train it; all must have the same settings"):
        common_start([one, {}], [1, 1])
