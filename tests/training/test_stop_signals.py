"""The first signal asks, the second ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from splitlearn.training.stop_signals import SIGNALS, StopSignals


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_told_and_the_second_is_whose_it_was(
    number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    came: list[int] = []
    signal.signal(number, lambda number, frame: came.append(number))
    signals = StopSignals()
    signals.note_handlers()
    # As Lightning does before training begins.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signals.wait(lambda: "stopping after this step")
    os.kill(os.getpid(), number)
    assert signals.received == number and came == []
    assert capfd.readouterr().err == "\nstopping after this step\n"
    os.kill(os.getpid(), number)
    assert came == [number]


def test_waiting_again_forgets_the_signal_before() -> None:
    signals = StopSignals()
    signals.note_handlers()
    signals.wait(lambda: "")
    os.kill(os.getpid(), signal.SIGINT)
    assert signals.received == signal.SIGINT
    signals.wait(lambda: "")
    assert signals.received is None
    signals.give_back()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_prepares_batches_ends_by_sigterm_and_not_by_ctrl_c() -> None:
    signals = StopSignals()
    signals.note_handlers()
    signals.wait(lambda: "told")
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_in_another_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    signals = StopSignals()

    def use() -> None:
        signals.note_handlers()
        signals.wait(lambda: "")
        signals.give_back()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) == before
