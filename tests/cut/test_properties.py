"""What holds for any split points, device maps, placements and tensor names."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from splitlearn.cut import (
    PART_NAMES,
    CutError,
    DeviceMapError,
    ParamMapper,
    Placement,
    PlacementError,
    SplitPlan,
    resolve_device_map,
)

SCALARS: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
# Half of them near enough to what is meant to come through.
DEVICES = st.sampled_from(["cpu", "cuda", "cuda:0", "cuda:1", "cuda:7", "meta", "mps", "auto"]) | SCALARS
PART_DEVICES = st.dictionaries(st.sampled_from(PART_NAMES) | st.text(max_size=8), DEVICES, max_size=4)
PARTS = VALUES | st.permutations(PART_NAMES).map(lambda names: names[:2])
PARTY = VALUES | st.fixed_dictionaries({}, optional={"parts": PARTS, "devices": VALUES, "address": VALUES, "other": VALUES})
PARTIES = VALUES | st.dictionaries(st.sampled_from(["client", "server"]) | SCALARS, PARTY, max_size=3)
TENSOR_NAMES = st.lists(
    st.sampled_from(
        ["model", "layers", "h", "0", "17", "embed_tokens", "lm_head", "norm", "ln_f", "wte", "output", "weight", "bias"]
    )
    | st.text(max_size=6),
    min_size=1,
    max_size=7,
).map(".".join)


@given(st.integers(1, 300), st.integers(-2, 302), st.integers(-2, 302))
def test_a_cut_is_refused_or_divides_the_layers(num_layers: int, split_point_1: int, split_point_2: int) -> None:
    is_cut = 0 <= split_point_1 <= split_point_2 <= num_layers
    try:
        plan = SplitPlan(num_layers, split_point_1, split_point_2)
    except CutError:
        assert not is_cut
        return
    assert is_cut
    layers = [layer for part in plan.parts for layer in range(part.start, part.end)]
    assert layers == list(range(num_layers))
    assert [part.name for part in plan.parts if part.has_embedding] == ["bottom"]
    assert [part.name for part in plan.parts if part.has_head] == ["top"]


@given(VALUES, VALUES, VALUES)
def test_any_other_value_is_a_cut_error(num_layers: Any, split_point_1: Any, split_point_2: Any) -> None:
    try:
        plan = SplitPlan(num_layers, split_point_1, split_point_2)
    except CutError as error:
        assert str(error)
    else:
        assert [type(value) for value in (plan.num_layers, plan.split_point_1, plan.split_point_2)] == [int] * 3


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_fractions_in_order_are_a_cut_near_them(num_layers: int, fraction_1: float, fraction_2: float) -> None:
    fraction_1, fraction_2 = sorted((fraction_1, fraction_2))
    plan = SplitPlan.from_fractions(num_layers, fraction_1, fraction_2)
    assert abs(plan.split_point_1 - fraction_1 * num_layers) <= 0.5 + 1e-9
    assert abs(plan.split_point_2 - fraction_2 * num_layers) <= 0.5 + 1e-9


@given(st.integers(1, 300), SCALARS, SCALARS)
def test_any_other_fraction_is_a_cut_error(num_layers: int, fraction_1: Any, fraction_2: Any) -> None:
    try:
        plan = SplitPlan.from_fractions(num_layers, fraction_1, fraction_2)
    except CutError:
        return
    assert 0 <= plan.split_point_1 <= plan.split_point_2 <= num_layers


@given(DEVICES, st.none() | DEVICES | PART_DEVICES, st.integers(0, 4))
@example("cuda:" + "9" * 5000, None, 1)
def test_a_device_map_is_refused_or_names_devices_that_are_here(device: Any, device_map: Any, num_gpus: int) -> None:
    try:
        devices = resolve_device_map(device, device_map, num_gpus=num_gpus)
    except DeviceMapError as error:
        assert str(error)
        return
    assert tuple(devices) == PART_NAMES
    assert set(devices.values()) <= {"cpu", *(f"cuda:{index}" for index in range(num_gpus))}
    assert resolve_device_map(device_map=devices, num_gpus=num_gpus) == devices


@given(PARTIES, st.just("client") | SCALARS, st.just("server") | SCALARS)
def test_a_placement_is_refused_or_has_each_part_once(parties: Any, data: Any, labels: Any) -> None:
    try:
        placement = Placement.resolve(parties, data, labels, num_gpus=1)
    except (PlacementError, DeviceMapError) as error:
        assert str(error)
        return
    assert sorted(part for party in placement.parties for part in party.parts) == sorted(PART_NAMES)
    assert Placement.resolve(**placement.to_dict(), num_gpus=1) == placement


@given(TENSOR_NAMES)
@example("model.layers." + "9" * 5000 + ".weight")
@example("model.layers.²._")
def test_a_name_belongs_to_one_place_at_most(name: str) -> None:
    layer = ParamMapper.get_layer_number(name)
    places = [layer is not None, ParamMapper.is_lm_head(name), ParamMapper.is_embedding(name), ParamMapper.is_final_norm(name)]
    assert sum(places) <= 1


@given(st.integers(0, 10**6), st.sampled_from(["model.layers", "transformer.h"]), st.integers(0, 99))
def test_the_first_number_is_the_layer(layer: int, stem: str, expert: int) -> None:
    assert ParamMapper.get_layer_number(f"{stem}.{layer}.mlp.experts.{expert}.w1.weight") == layer
