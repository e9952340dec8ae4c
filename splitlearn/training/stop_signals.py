"""SIGTERM, Ctrl-C and SIGHUP as a wish that training stop after the step under way."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from splitlearn.terminal import leave_terminal

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """Notes the first signal while it waits, and restores the handlers that were there before, so a second one ends the run.

    Lightning puts a handler of its own in front of SIGTERM's whenever it runs anything, and takes it away again. So the
    handlers to give back are noted before it does.

    Attributes:
        received: the signal that came; None if none did.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._announce: Callable[[], str] | None = None
        self._process = os.getpid()

    def note_handlers(self) -> None:
        """Note whom the signals belong to, before Lightning and `wait` take them."""
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def wait(self, announce: Callable[[], str]) -> None:
        """Begin to wait; only the main thread can.

        Args:
            announce: says what happens now, in a sentence for stderr.
        """
        self.received, self._announce, self._process = None, announce, os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # `nohup` has SIGHUP ignored.
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._receive)

    def give_back(self) -> None:
        """Stop waiting: signals belong again to whom they did when `note_handlers` was called."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._before.items():
            # None stands for a handler that Python did not install.
            if handler is not None:
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _answer_in_worker(number)
            return
        self.received = number
        self.give_back()
        if number == signal.SIGHUP:
            leave_terminal()
        if self._announce is not None:
            # The signal may have come while the stream was being written to.
            with contextlib.suppress(RuntimeError, OSError, ValueError):
                print(f"\n{self._announce()}", file=sys.stderr, flush=True)


def _answer_in_worker(number: int) -> None:
    """Answer in a process that prepares batches: a terminal sends Ctrl-C there too, but the step under way needs its batch."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
