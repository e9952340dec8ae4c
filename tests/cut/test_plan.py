import pytest

from splitlearn.cut import CutError, SplitPlan


def test_parts_cover_every_layer_once() -> None:
    for first in range(7):
        for second in range(first, 7):
            parts = SplitPlan(6, first, second).parts
            assert [layer for part in parts for layer in range(part.start, part.end)] == list(range(6))
            assert [part.has_embedding for part in parts] == [True, False, False]
            assert [part.has_head for part in parts] == [False, False, True]


def test_parts_describe_themselves() -> None:
    plan = SplitPlan(28, 8, 24)
    assert plan.bottom.describe() == "layers 0-7 + embedding"
    assert plan.trunk.describe() == "layers 8-23"
    assert plan.top.describe() == "layers 24-27 + final norm + head"
    assert SplitPlan(4, 1, 1).bottom.describe() == "layer 0 + embedding"
    assert SplitPlan(4, 1, 1).trunk.describe() == "no layers"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((-1, 3), "split_point_1 is -1, but the model has 6 decoder layers: choose 0 to 6"),
        ((2, 7), "split_point_2 is 7, but the model has 6 decoder layers: choose 0 to 6"),
        ((4, 2), "split_point_1 is 4 and split_point_2 is 2"),
        ((True, 3), "split_point_1 is True (bool)"),
        ((1, 2.0), "split_point_2 is 2.0 (float)"),
        (("1", 2), "split_point_1 is '1' (str)"),
        ((None, 2), "split_point_1 is None"),
    ],
)
def test_points_that_do_not_cut_are_refused(points: tuple[int, int], message: str) -> None:
    with pytest.raises(CutError) as error:
        SplitPlan(6, *points)
    assert message in str(error.value)


@pytest.mark.parametrize("layers", [0, -3, 1.5, True])
def test_a_model_without_layers_is_refused(layers: int) -> None:
    with pytest.raises(CutError, match="num_layers"):
        SplitPlan(layers, 0, 0)


@pytest.mark.parametrize(
    ("layers", "fractions", "points"),
    [(8, (1 / 3, 2 / 3), (3, 5)), (30, (0.25, 0.75), (8, 23)), (1, (0.25, 0.75), (0, 1)), (12, (0, 1), (0, 12))],
)
def test_fractions_round_to_the_nearest_layer(layers: int, fractions: tuple[float, float], points: tuple[int, int]) -> None:
    plan = SplitPlan.from_fractions(layers, *fractions)
    assert (plan.split_point_1, plan.split_point_2) == points


@pytest.mark.parametrize("fractions", [(-0.1, 0.5), (0.5, 1.1), ("a", 0.5), (0.9, 0.1)])
def test_bad_fractions_are_refused(fractions: tuple[float, float]) -> None:
    with pytest.raises(CutError):
        SplitPlan.from_fractions(8, *fractions)
