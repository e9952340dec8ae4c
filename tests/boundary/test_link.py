"""What a step would take over a network."""

from __future__ import annotations

import pytest

from splitlearn.boundary import COUNTS, CUT_NAMES, Link


def traffic_of(**of_cut_1: float) -> dict[str, dict[str, float]]:
    nothing = dict.fromkeys(COUNTS, 0)
    return {CUT_NAMES[0]: {**nothing, **of_cut_1}, CUT_NAMES[1]: dict(nothing)}


def test_bytes_and_trips_take_time() -> None:
    traffic = traffic_of(activation_uplink_bytes=1e6, gradient_downlink_bytes=5e5)
    told = Link(bandwidth_mbps=100, rtt_ms=40).predict(traffic, compute_s=0.04)
    # 12 megabits at 100 a second, and one trip each way.
    assert told["link_s"] == pytest.approx(0.12 + 0.04)
    assert told["step_s"] == pytest.approx(0.2)
    assert told["waiting_share"] == pytest.approx(0.8)
    assert (told["bytes"], told["trips"]) == (1.5e6, 2)


def test_every_micro_batch_makes_its_own_trips() -> None:
    traffic = traffic_of(activation_uplink_bytes=1e6, gradient_downlink_bytes=5e5)
    assert Link(rtt_ms=40).predict(traffic, None, num_micro_batches=3)["link_s"] == pytest.approx(3 * 0.04)


def test_what_is_not_known_is_not_reckoned() -> None:
    told = Link(bandwidth_mbps=8).predict(traffic_of(activation_uplink_bytes=1e6), compute_s=None)
    assert told["link_s"] == pytest.approx(1)
    assert told["step_s"] is None and told["waiting_share"] is None
    assert not Link().is_reckoned and Link(rtt_ms=0).is_reckoned


def test_nothing_to_send_takes_no_time() -> None:
    told = Link(1, 1000).predict(traffic_of(), compute_s=1.0)
    assert (told["link_s"], told["step_s"], told["waiting_share"]) == (0, 1, 0)
