"""A folder on a client's machine by which its run and the app of its rounds meet.

At its start, and at the end of each round, the run writes the weights that it holds into a file; after a round it waits. The
app hands them to whoever averages, and writes the mean into another file. Each file is there whole or not at all. The run holds
a lock, so the app knows whether there is one. The app's process may end at any time: whatever it waited for still stands in the
folder.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from splitlearn.files import check_writable, whole_file, write_text
from splitlearn.naming import named

_MEAN, _END, _LOCK = "mean.safetensors", "end.txt", "lock"
_ENDS = "ends-{}.safetensors"
_POLL_SECONDS = 0.1
# How long a run tries to get the lock, which an app holds for a moment to see whether there is a run.
_LOCK_SECONDS = 2.0

Arrays = dict[str, "np.ndarray[Any, Any]"]
_Found = TypeVar("_Found")


class NoRunError(RuntimeError):
    """No run takes part in rounds in a folder."""


@dataclass(frozen=True)
class Ends:
    """What a run has trained at the end of a round.

    Attributes:
        number: how many rounds it has been through.
        tensors: what is trained of bottom and top, by the unsplit model's names.
        num_examples: by which it is weighted.
        rounds_left: how many further rounds the run has.
    """

    number: int
    tensors: Arrays
    num_examples: int
    rounds_left: int


class RoundFolder:
    """The folder, for both sides.

    Args:
        folder: where it is; it is made if need be.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        self.path.mkdir(parents=True, exist_ok=True)
        check_writable(self.path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the run of this folder while the block runs. What an earlier run has left is removed.

        Raises:
            ValueError: another run takes part in rounds here.
        """
        with (self.path / _LOCK).open("w") as lock:
            until = time.monotonic() + _LOCK_SECONDS
            while not _lock(lock, fcntl.LOCK_EX):
                if time.monotonic() > until:
                    raise ValueError(f"another run takes part in rounds in {self.path}; give each client a folder of its own")
                time.sleep(_POLL_SECONDS)
            for name in (_MEAN, _END):
                (self.path / name).unlink(missing_ok=True)
            self._remove(self._numbers())
            yield

    def has_run(self) -> bool:
        """Whether a run takes part in rounds here."""
        with (self.path / _LOCK).open("a") as lock:
            return not _lock(lock, fcntl.LOCK_SH)

    def offer(self, ends: Ends) -> None:
        """Write what the run has trained, for the app.

        Raises:
            OSError: the disk is full.
        """
        told = {"number": ends.number, "num_examples": ends.num_examples, "rounds_left": ends.rounds_left}
        self._write(_ENDS.format(ends.number), ends.tensors, told)

    def take(self, number: int, seconds: float) -> Arrays:
        """Wait for the mean after so many rounds, and return it. What was offered up to then is removed.

        Args:
            number: as in what was offered.
            seconds: how long to wait.

        Raises:
            TimeoutError: it has not come.
            ValueError: the rounds have ended, or the file is broken.
        """

        def mean() -> Arrays | None:
            if (self.path / _END).is_file():
                raise ValueError(f"the rounds have ended before round {number} was averaged: {(self.path / _END).read_text()}")
            content = self._read(_MEAN)
            return None if content is None or content[1].get("number") != str(number) else content[0]

        tensors = _wait(mean, seconds)
        if tensors is None:
            raise TimeoutError(
                f"no mean of round {number} has come to {self.path} in {seconds:g} s; start whoever averages by then, or set "
                f"{named('rounds.wait')} to more if other clients take so long"
            )
        self._remove(offered for offered in self._numbers() if offered <= number)
        return tensors

    def ends(self, seconds: float, at_least: int = 0, start_seconds: float = 0.0) -> Ends:
        """Wait for what the run offers, and return the first of it.

        Args:
            seconds: how long to wait.
            at_least: how many rounds it must have been through.
            start_seconds: how long to wait for the run to be started.

        Raises:
            NoRunError: there is no run, or it has ended meanwhile.
            TimeoutError: it has not offered anything.
        """
        if not _wait(lambda: self.has_run() or None, start_seconds):
            raise NoRunError(
                f"no run takes part in rounds in {self.path}; start the client's with this folder for its rounds, or see in "
                "the summary.json of its own folder why it has ended"
            )

        def offered() -> Ends | None:
            # A run that has ended may have offered something before.
            is_running = self.has_run()
            for number in self._numbers():
                content = self._read(_ENDS.format(number)) if number >= at_least else None
                if content is not None:
                    return Ends(tensors=content[0], **{name: int(value) for name, value in content[1].items()})
            if not is_running:
                raise NoRunError(f"the run in {self.path} has ended; the summary.json of its own folder says why")
            return None

        ends = _wait(offered, seconds)
        if ends is None:
            raise TimeoutError(f"the run in {self.path} has not been through round {at_least} in {seconds:g} s")
        return ends

    def bring(self, number: int, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Write the mean after so many rounds, for the run.

        Raises:
            OSError: the disk is full.
        """
        self._write(_MEAN, tensors, {"number": number})

    def end(self, reason: str) -> None:
        """Have the run end once it waits for a mean, since none will come.

        Raises:
            OSError: the disk is full.
        """
        write_text(self.path / _END, reason)

    def _numbers(self) -> list[int]:
        """Return the numbers of rounds of what the run offers, in order."""
        first, last = _ENDS.split("{}")
        names = [file.name for file in self.path.glob(_ENDS.format("*"))]
        return sorted(int(name.removeprefix(first).removesuffix(last)) for name in names)

    def _remove(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            (self.path / _ENDS.format(number)).unlink(missing_ok=True)

    def _write(self, name: str, tensors: Mapping[str, np.ndarray[Any, Any]], told: Mapping[str, int]) -> None:
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        with whole_file(self.path / name, num_bytes) as file:
            # Others' arrays may be views, of which safetensors would write the wrong bytes.
            whole = {key: np.asarray(tensor, order="C") for key, tensor in tensors.items()}
            save_file(whole, file, {key: str(value) for key, value in told.items()})

    def _read(self, name: str) -> tuple[Arrays, dict[str, str]] | None:
        file = self.path / name
        try:
            with safe_open(file, framework="numpy") as content:
                return {key: content.get_tensor(key) for key in content.keys()}, dict(content.metadata() or {})  # noqa: SIM118
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            raise ValueError(f"{file} is no file of a round ({error}); remove it") from error


def _lock(file: Any, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(ask: Callable[[], _Found | None], seconds: float) -> _Found | None:
    """Return what a question is answered with, asked until it is not None; None once the time is over."""
    until = time.monotonic() + seconds
    while True:
        found = ask()
        if found is not None or time.monotonic() >= until:
            return found
        time.sleep(_POLL_SECONDS)
