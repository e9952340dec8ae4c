"""What reading a stranger's file must keep to: a documented error in one sentence, its own folder, some time, some memory.

An audit hook of Python sees what is opened. It does not see files that torch and safetensors open by themselves; Python looks
at each of those first.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from splitlearn.cli.errors import sentence_of
from splitlearn.files import ReadError

# Errors that the documentation names; CheckpointError and CutError are ValueErrors. A ReadError tells that the memory which a
# file asks for is not there.
DOCUMENTED = (ValueError, FileNotFoundError, ReadError)
MAX_SENTENCE = 4_100
# A read takes some hundredths of a second.
MAX_CPU_S = 5.0
_DEADLINE_S = 60.0
# Resident memory that one input may add to the highest before it, and address space that it may add to what there is.
MAX_BYTES = 128 * 2**20
_MAX_ADDRESS_BYTES = 2 * 2**30
_ROOT = Path(__file__).parents[2]
_FOLDERS = tuple(
    str(Path(folder).resolve()) for folder in {sys.prefix, sys.base_prefix, *sys.path[1:], str(_ROOT / "splitlearn")} if folder
)
# Whether the process that a lock's file names still runs is asked of the system.
_FILES = re.compile(r"/dev/null|/dev/urandom|/proc/\d+/stat(us)?|/proc/stat")
# Events of files, by the numbers of their arguments that are paths.
_PATHS = {
    "open": (0,),
    "os.listdir": (0,),
    "os.scandir": (0,),
    "os.chmod": (0,),
    "os.link": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (0, 1),
    "os.truncate": (0,),
    "os.utime": (0,),
    "shutil.copyfile": (0, 1),
    "shutil.move": (0, 1),
    "shutil.rmtree": (0,),
}
_FORBIDDEN = ("os.exec", "os.posix_spawn", "os.system", "socket.connect", "socket.getaddrinfo", "subprocess.Popen")


class BrokenPromiseError(AssertionError):
    """Reading an input did something that it must not do.

    Attributes:
        place: which promise was broken, and the line of the code that broke it, so that one fault is told once.
    """

    def __init__(self, problem: str, place: str = "") -> None:
        super().__init__(problem)
        self.place = f"{problem[:40]} {place}"


class _HangError(BaseException):
    """An input takes too long; no reader catches it."""


class _Seen:
    """What the audit hook, which stays for as long as the process, has seen while an input is read."""

    folder: str | None = None
    events: list[str] = []  # noqa: RUF012


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _Seen.folder is None:
        return
    if event in _FORBIDDEN:
        _Seen.events.append(f"{event} {arguments[:2]}")
    for number in _PATHS.get(event, ()):
        path = arguments[number]
        # A number is a file that is open already.
        if isinstance(path, (str, bytes, os.PathLike)) and not _is_inside(os.path.realpath(os.fsdecode(path))):
            _Seen.events.append(f"{event} {os.fsdecode(path)}")


def _is_inside(path: str) -> bool:
    folders = (_Seen.folder or "", *_FOLDERS)
    return _FILES.fullmatch(path) is not None or any(path == folder or path.startswith(f"{folder}/") for folder in folders)


_is_hooked = False


def keep_promises(read: Callable[[], object], folder: Path, file: str) -> str | None:
    """Read an input and see that every promise is kept.

    Args:
        read: reads it.
        folder: nothing outside of this folder, of Python and of the package may be opened.
        file: the file's name in the folder; an error names it, or the folder of the model or run.

    Returns:
        The sentence with which the input was refused; None if it was read.

    Raises:
        BrokenPromiseError: a promise was not kept.
    """
    sentence, before_s, before_bytes = None, time.process_time(), _peak_bytes()
    with _watching(folder) as events:
        try:
            read()
        except DOCUMENTED as error:
            sentence = sentence_of(error)
            problem = _problem_of(sentence, error, folder / file)
            if problem is not None:
                raise BrokenPromiseError(problem, _place(error)) from error
        except _HangError as error:
            raise BrokenPromiseError(f"it did not end within {_DEADLINE_S:g} seconds", _place(error)) from error
        except Exception as error:
            raise BrokenPromiseError(f"{type(error).__name__} is not documented: {error}", _place(error)) from error
    if events:
        raise BrokenPromiseError(f"outside of its folder: {events[0]}")
    if time.process_time() - before_s > MAX_CPU_S:
        raise BrokenPromiseError(f"it took {time.process_time() - before_s:.0f} seconds")
    if _peak_bytes() - before_bytes > MAX_BYTES:
        raise BrokenPromiseError(f"it took {(_peak_bytes() - before_bytes) / 2**20:.0f} MiB")
    return sentence


def _problem_of(sentence: str, error: BaseException, path: Path) -> str | None:
    if not sentence.isprintable():
        return f"the sentence has more than one line, or signs that steer a terminal: {sentence!r}"
    if not 10 <= len(sentence) <= MAX_SENTENCE:
        return f"the sentence has {len(sentence)} letters: {sentence[:300]}"
    names = (path.name, path.parent.name, *map(str, path.parents[:2]))
    return None if any(name in sentence for name in names) else f"the sentence does not name {path.name}: {sentence}"


def _place(error: BaseException) -> str:
    """Return the innermost line of this package that an error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(str(_ROOT / "splitlearn"))]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def _watching(folder: Path) -> Iterator[list[str]]:
    global _is_hooked
    if not _is_hooked:
        sys.addaudithook(_hook)
        _is_hooked = True
    events: list[str] = []
    _Seen.events = events
    with warnings.catch_warnings(), _within_limits():
        warnings.simplefilter("ignore")
        _Seen.folder = str(folder.resolve())
        try:
            yield events
        finally:
            _Seen.folder = None


@contextmanager
def _within_limits() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _HangError

    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _DEADLINE_S)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MAX_ADDRESS_BYTES, limits[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)
