"""The signal by which this process was told to end, for those who see only an error that came of it."""

from __future__ import annotations

_number: int | None = None


def note_interruption(number: int | None) -> None:
    """Note the first signal that ends this process; None forgets it."""
    global _number
    _number = number


def interrupting_signal() -> int | None:
    """Return the signal that ends this process; None if none has come.

    What its handler raises may not arrive: where torch asks an object for its first element, for example, any error in there
    becomes a ValueError about the shape.
    """
    return _number
