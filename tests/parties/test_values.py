"""Plain values and nested state cross as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitlearn.parties import WireError, party_pb2, read_value, write_value


def through(value: Any) -> Any:
    tensors: dict[str, torch.Tensor] = {}
    written = party_pb2.Value.FromString(write_value(value, tensors).SerializeToString())
    return read_value(written, tensors, "alice")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(PLAIN)
def test_plain_values_come_out_with_their_types(value: Any) -> None:
    assert repr(through(value)) == repr(value)


def test_the_state_of_an_optimizer_crosses() -> None:
    moments = {name: torch.randn(3, 2) for name in ("exp_avg", "exp_avg_sq")}
    groups = [{"name": "trunk", "lr": 1e-3, "betas": (0.9, 0.95), "amsgrad": False, "foreach": None, "params": ["w"]}]
    state = {"state": {"model.weight": {"step": torch.tensor(3.0), **moments}}, "param_groups": groups}
    tensors: dict[str, torch.Tensor] = {}
    written = write_value(state, tensors, "state")
    assert sorted(tensors) == [f"state/state/model.weight/{name}" for name in ("exp_avg", "exp_avg_sq", "step")]
    received = read_value(written, tensors, "alice")
    assert received["param_groups"] == groups
    assert received["state"]["model.weight"]["exp_avg"] is moments["exp_avg"]


def test_names_that_coincide_are_told_apart() -> None:
    one, other = torch.zeros(1), torch.ones(1)
    received = through({"a/b": one, "a": {"b": other}})
    assert received["a/b"] is one
    assert received["a"]["b"] is other


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1: 2}, "value is dict, which cannot be sent; use plain values"),
        ({"a": [object()]}, "value/a/0 is object, which cannot be sent"),
        (1 << 63, "value is int, which cannot be sent"),
    ],
)
def test_what_is_no_plain_value_is_refused_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(WireError, match=said):
        write_value(value, {})


def test_what_is_nested_too_deeply_is_refused() -> None:
    value: Any = 0
    for _ in range(39):
        value = [value]
    assert through(value) == value
    with pytest.raises(WireError, match="nested more than 40 levels deep"):
        write_value([[value]], {})


def test_hostile_values_are_refused() -> None:
    with pytest.raises(WireError, match="alice names the tensor 'x', which is not in its message"):
        read_value(party_pb2.Value(tensor="x"), {}, "alice")
    lacking = party_pb2.Value(map=party_pb2.ValueMap(keys=["a", "b"], values=[party_pb2.Value(flag=True)]))
    with pytest.raises(WireError, match="a dictionary whose 2 keys and 1 values do not match"):
        read_value(lacking, {}, "alice")
    twice = party_pb2.Value(map=party_pb2.ValueMap(keys=["a", "a"], values=[party_pb2.Value(flag=True)] * 2))
    with pytest.raises(WireError, match="2 keys and 2 values do not match"):
        read_value(twice, {}, "alice")
