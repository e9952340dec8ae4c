"""The seconds of steps by phase, with a clock that is set by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from splitlearn.training import step_clock
from splitlearn.training.step_clock import BETWEEN, PHASES, StepClock

STAGES = ("data", "bottom", "cut_1", "trunk", "cut_2", "top", "backward", "optimizer")


class HandClock:
    """Stands for the module `time`."""

    now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    clock = HandClock()
    monkeypatch.setattr(step_clock, "time", clock)
    return clock


def take_step(clock: StepClock, hand: HandClock, scale: float = 1.0, between_s: float = 0.5) -> dict[str, float]:
    """Take a step whose phases last 1, 2, 3 and so on seconds, times ``scale``."""
    for seconds, phase in enumerate(STAGES, start=1):
        clock.enter(phase)
        hand.now_s += seconds * scale
    clock.enter(BETWEEN)
    hand.now_s += between_s
    clock.enter(None)
    # No phase, and so none of the step.
    hand.now_s += 1000
    return clock.end_step()


def test_phases_add_up_to_the_step(hand: HandClock) -> None:
    clock = StepClock()
    assert take_step(clock, hand) == {} and clock.summary() is None, "the first step is a warm-up"
    seconds = take_step(clock, hand)
    assert list(seconds) == list(PHASES)
    assert [seconds[phase] for phase in STAGES] == pytest.approx([1, 2, 3, 4, 5, 6, 7, 8])
    assert seconds["step"] == pytest.approx(36.5)


def test_accumulated_batches_are_one_step(hand: HandClock) -> None:
    clock = StepClock()
    take_step(clock, hand)
    clock.enter("trunk")
    hand.now_s += 10
    clock.enter(None)
    assert take_step(clock, hand)["trunk"] == pytest.approx(14)


def test_what_others_do_meanwhile_is_no_part_of_the_step(hand: HandClock) -> None:
    clock = StepClock(beside=("at_servers",))
    for _ in range(2):
        clock.note("at_servers", 5.0)
        clock.note("at_servers", 2.0)
        seconds = take_step(clock, hand)
    assert list(seconds) == [*PHASES, "at_servers"]
    assert seconds["at_servers"] == 7.0 and seconds["step"] == pytest.approx(36.5)
    assert take_step(clock, hand)["at_servers"] == 0.0
    other = StepClock()
    other.load_state_dict(clock.state_dict())
    assert other.num_steps == 0, "a run in one process has no such figure"


def test_percentiles(hand: HandClock) -> None:
    clock = StepClock()
    for scale in (1000, *range(101)):
        take_step(clock, hand, scale, between_s=0)
    summary = clock.summary()
    assert summary is not None and summary["num_steps"] == 101
    assert summary["data"] == pytest.approx({"median_s": 50, "p95_s": 95, "p99_s": 99})
    assert summary["step"]["p95_s"] == pytest.approx(36 * 95)
    medians = [summary[phase]["median_s"] for phase in STAGES]
    assert all(above > below for below, above in pairwise(medians))


def test_a_resumed_run_keeps_its_steps(hand: HandClock) -> None:
    first, second = StepClock(), StepClock()
    take_step(first, hand)
    take_step(first, hand)
    second.load_state_dict(first.state_dict())
    assert second.summary() == first.summary()
    take_step(second, hand)
    assert second.num_steps == 1, "the first step after a resume is a warm-up too"
    take_step(second, hand)
    assert second.num_steps == 2


def test_where_devices_run_behind(hand: HandClock) -> None:
    waited: list[float] = []
    apart = StepClock(lambda: waited.append(hand.now_s), tells_phases_apart=True)
    take_step(apart, hand)
    assert len(waited) == len(STAGES) + 2
    waited.clear()
    together = StepClock(lambda: waited.append(hand.now_s), tells_phases_apart=False)
    take_step(together, hand)
    assert len(waited) == 1, "at the end of the step alone"
    assert list(take_step(together, hand)) == ["data", "step"]
    together.load_state_dict(apart.state_dict())
    assert together.num_steps == 1, "figures of other phases are not mixed with these"


def test_the_number_of_steps_that_are_kept_is_bounded(hand: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_clock, "_MOST_STEPS", 3)
    clock = StepClock()
    for _ in range(10):
        take_step(clock, hand)
    assert clock.num_steps == 3
