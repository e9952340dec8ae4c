"""Finding a Trainer's callback by its class."""

from __future__ import annotations

from typing import Any, TypeVar

from lightning.pytorch import Callback, Trainer

C = TypeVar("C", bound=Callback)


def find_callback(trainer: Trainer, kind: type[C]) -> C | None:
    """Return the Trainer's first callback of the class ``kind``, or None if it has none.

    Args:
        trainer: the Trainer.
        kind: a subclass of Lightning's `Callback`.
    """
    # Lightning sets this documented attribute from outside the class, where type checkers do not look.
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)
