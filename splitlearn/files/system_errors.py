"""What the system said when a file could not be read or written, whichever library passed it on."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

# safetensors and torch name the system's error in the text of theirs alone.
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)|Error code (\d+) \(|: [A-Z][a-z ]+ \((\d+)\)$")
# Of a file that may be whole.
_REMEDIES = {
    errno.ENOMEM: "; there is too little memory, or a limit on it (ulimit -v) is too low",
    errno.EMFILE: "; raise the limit on open files (ulimit -n)",
    errno.ENFILE: "; the system as a whole has too many files open",
    errno.EACCES: "; give its reader the permission",
    errno.EPERM: "; give its reader the permission",
    errno.EIO: "; the disk or network below it fails",
}


class ReadError(OSError):
    """The system does not let a file be read, which may be whole; the message is a sentence that names it and says why."""


def system_error_of(error: BaseException) -> int | None:
    """Return the number of the system's error that led to an error, as in `errno`; None if there was none.

    torch raises a RuntimeError while it handles the system's error, and safetensors an error of its own.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno is not None:
            return link.errno
        match = _NUMBER_IN_TEXT.search(str(link))
        if match:
            return int(next(filter(None, match.groups())))
        if isinstance(link, MemoryError):
            return errno.ENOMEM
        link = link.__cause__ or link.__context__
    return None


def refusal_to_read(path: Path, error: BaseException) -> ReadError | None:
    """Return the error to raise for a file that the system does not let be read; None if the file itself is at fault.

    Args:
        path: the file.
        error: the error that some library raised when it read it.
    """
    number = system_error_of(error)
    if number not in _REMEDIES:
        return None
    refusal = ReadError(f"{path} cannot be read ({os.strerror(number)}){_REMEDIES[number]}")
    refusal.errno = number
    return refusal
