"""How commands end by Ctrl-C, SIGTERM and SIGHUP: with a sentence, 130, 143 or 129, and without a traceback.

There is one mechanism for all commands and all their phases. While libraries are imported, a signal ends the process at once.
From then on the first one raises SystemExit, so that commands can clean up, and a second one ends the process at once. Training
takes one signal more, to finish its step (`splitlearn.training.stop_signals`). Whatever becomes of the SystemExit on its way,
the command's exit status tells of the signal.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from splitlearn.files import release_all_folders
from splitlearn.interruption import interrupting_signal, note_interruption
from splitlearn.terminal import leave_terminal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What shells report for a program that a signal ended is this and the signal's number.
_ENDED_BY_SIGNAL = 128


# The process that signals are meant for.
_process = os.getpid()


def end_at_once() -> None:
    """Have signals end the process wherever it is, until `raise_errors`: imports take seconds and leave nothing to clean up."""
    _handle_with(_end)


def raise_errors() -> None:
    """Have the first signal from now on raise SystemExit, so that commands can clean up, and a second one end the process."""
    global _process
    _process = os.getpid()
    note_interruption(None)
    _handle_with(_stop)


@contextmanager
def telling_signals() -> Iterator[None]:
    """Have the process's exit status tell of a signal that came while the block ran.

    Libraries turn the error that a signal raised into others: Lightning into an exit with 0 or 1, and what is raised in a
    destructor is lost.

    Raises:
        SystemExit: a signal came.
    """
    try:
        yield
    finally:
        if (received := interrupting_signal()) is not None:
            raise SystemExit(_ENDED_BY_SIGNAL + received)


def _handle_with(handler: Callable[[int, FrameType | None], None]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        # `nohup` has SIGHUP ignored.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    try:
        _say_so(number)
        release_all_folders()
    finally:
        os._exit(_ENDED_BY_SIGNAL + number)


def _stop(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _process:
        _answer_in_child(number)
    elif interrupting_signal() is not None:
        _end(number, frame)
    else:
        note_interruption(number)
        if os.environ.get("HYDRA_FULL_ERROR") != "1":
            # Objects that are half made, such as a data loader's iterator, fail when they are deleted.
            sys.unraisablehook = lambda unraisable: None
        _say_so(number)
        raise SystemExit(_ENDED_BY_SIGNAL + number)


def _answer_in_child(number: int) -> None:
    """Answer in a forked process: a terminal sends Ctrl-C to all processes, and the first of them ends the others."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _say_so(number: int) -> None:
    if number == signal.SIGHUP:
        leave_terminal()
    # Not by print(), which may be what the signal interrupted. Whoever reads may be gone.
    with suppress(OSError):
        os.write(2, f"interrupted by {signal.Signals(number).name}\n".encode())
