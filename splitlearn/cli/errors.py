"""What a user sees when something they gave cannot be used: one sentence, and an exit status that is not 0."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from omegaconf import MissingMandatoryValue

from splitlearn.cli.signals import raise_errors, telling_signals
from splitlearn.cut import CutError
from splitlearn.redaction import printable, redact, without_queries
from splitlearn.settings import in_sweep

# What shells report for a program that SIGINT ended.
_INTERRUPTED = 130
# The longest of our own sentences list names of settings.
_MAX_SENTENCE = 4_000
# OSError: files that are not there or may not be read, full disks.
_USER_ERRORS = (ValueError, OSError, ImportError, MissingMandatoryValue)


def one_sentence(task: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Turn a task's errors about its input into one sentence on stderr and exit status 2.

    In a sweep a cut that does not fit is told and the sweep goes on; anything else fails the sweep once its other runs are
    done. ``HYDRA_FULL_ERROR=1`` shows the traceback.
    """

    @functools.wraps(task)
    def run(cfg: Any) -> Any:
        raise_errors()
        try:
            with telling_signals():
                return task(cfg)
        except KeyboardInterrupt:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print("interrupted", file=sys.stderr, flush=True)
            raise SystemExit(_INTERRUPTED) from None
        except _USER_ERRORS as error:
            redact(error)
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"{'refused' if isinstance(error, CutError) else 'error'}: {sentence_of(error)}", file=sys.stderr, flush=True)
            if not in_sweep():
                raise SystemExit(2) from error
            if not isinstance(error, CutError):
                raise
            return None

    return run


def refuse(sentence: str) -> NoReturn:
    """Print what is wrong with what was asked for, and end.

    Raises:
        SystemExit: always, with status 2.
    """
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    raise SystemExit(2) from None


def sentence_of(error: Exception) -> str:
    """Return what an error says to a user, in one line that no terminal takes for a command to itself.

    A message may quote names out of files that somebody else wrote.
    """
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set; add {error.full_key}=... to the command"
    said = printable(without_queries(str(error)))
    return said if len(said) <= _MAX_SENTENCE else f"{said[:_MAX_SENTENCE]}..."
