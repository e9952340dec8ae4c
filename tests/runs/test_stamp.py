"""A saved file says which run and step it is of; what cannot be read says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from splitlearn.runs import Stamp, new_run_id


def test_what_is_written_is_read() -> None:
    stamp = Stamp(new_run_id(), 12)
    assert Stamp.from_plain(stamp.to_dict()) == stamp
    assert Stamp.from_plain({name: str(value) for name, value in stamp.to_dict().items()} | {"format": "pt"}) == stamp
    assert str(Stamp("a", 3)) == "run a at step 3" and new_run_id() != new_run_id()


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        [],
        "run",
        {"run": "a"},
        {"step": 1},
        {"run": 1, "step": 1},
        *({"run": "a", "step": step} for step in ("x", "²", "9" * 5000, True, 1.0)),
    ],
)
def test_what_is_no_stamp(values: Any) -> None:
    assert Stamp.from_plain(values) is None
