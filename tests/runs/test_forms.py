from __future__ import annotations

from typing import Any

import pytest

from splitlearn.runs import misfit

FORM: dict[str, Any] = {"step": int, "loss": float, "parts": list[dict[str, str]], "is_best": bool, "notes": dict[str, Any]}


def test_what_is_of_its_form() -> None:
    value = {"step": 3, "loss": 2, "parts": [{"name": "top"}, None], "is_best": True, "notes": {"a": [1]}, "more": object()}
    assert misfit(value, FORM, "record") is None
    assert misfit(None, FORM, "record") is None and misfit({"step": None}, FORM, "record") is None
    assert misfit(1, int | None, "step") is None and misfit(1.5, float | str, "loss") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "record is a list"),
        ({"step": True}, "record.step is True"),
        ({"step": 1.5}, "record.step is 1.5"),
        ({"loss": "low"}, "record.loss is 'low'"),
        ({"parts": {}}, "record.parts is a table"),
        ({"parts": [{}, {"name": []}]}, "record.parts.1.name is a list"),
        ({"is_best": 1}, "record.is_best is 1"),
        ({"notes": {1: 2}}, "record.notes is a table"),
        ({"loss": "x" * 100}, "record.loss is '" + "x" * 39),
    ],
)
def test_what_is_not(value: Any, words: str) -> None:
    assert misfit(value, FORM, "record") == words


def test_one_of_several_kinds() -> None:
    assert misfit([], int | None, "step") == "step is a list"
    assert misfit([], int | str | None, "step") == "step is a list"
