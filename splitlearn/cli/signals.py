"""How commands end by Ctrl-C and SIGTERM: at once, with 130 or 143, and without a traceback."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

# What shells report for a program that a signal ended is this and the signal's number.
_ENDED_BY_SIGNAL = 128


def end_at_once() -> None:
    """Have signals end the process wherever it is, until `raise_errors`: imports take seconds and leave nothing to clean up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def raise_errors() -> None:
    """Have signals raise errors from now on: KeyboardInterrupt, and for SIGTERM SystemExit, so that commands can clean up."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, _exit)


def _end(number: int, frame: FrameType | None) -> None:
    _say_so()
    os._exit(_ENDED_BY_SIGNAL + number)


def _say_so() -> None:
    # Not by print(), which may be what the signal interrupted.
    os.write(2, b"interrupted\n")


def _exit(number: int, frame: FrameType | None) -> None:
    _say_so()
    raise SystemExit(_ENDED_BY_SIGNAL + number)
