"""Settings of simulated clients: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from splitlearn.training import ClientSettings


def test_steps_and_batches_are_those_of_the_trunk() -> None:
    in_turn, at_once = (ClientSettings(("a", "b", "c"), order) for order in ("sequential", "concurrent"))
    assert (in_turn.batches_per_step(2), at_once.batches_per_step(2)) == (2, 6)
    # The last round may be cut short.
    assert (in_turn.steps_of_each(7), at_once.steps_of_each(7)) == (3, 7)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"clients": ["a", "a"]}, r"clients is \['a', 'a'\]; give two names or more, each once"),
        ({"clients": 2}, r"clients is 2; give the clients' names, such as \[alice, bob\]"),
        ({"clients": ["a", "b/c"]}, "clients has 'b/c'; a name is a letter followed by letters, digits, - or _"),
        ({"clients": ["a", "b"], "order": "free"}, "order is 'free'; use one of sequential, concurrent"),
        ({"clients": ["a", "b"], "average_every": 0}, "average_every is 0; use 1 or more, or null for never"),
        ({"clients": ["a", "b"], "rounds": 1}, "rounds is not known; there are clients, order, average_every"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ClientSettings.from_plain(values)
