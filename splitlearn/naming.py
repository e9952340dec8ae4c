"""How messages name settings: as whoever called knows them.

A function speaks of its own arguments: ``learning_rate is -1``. A caller that has them from an argument of its own says so
with a context: inside ``naming_group("optimizer")`` the message says ``optimizer.learning_rate``. Contexts nest, from the keys
of one argument up to the names of a configuration. So the library knows no configuration, and its messages, warnings and
advice need no rewriting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_naming: ContextVar[Callable[[str], str]] = ContextVar("naming", default=str)


def named(setting: str) -> str:
    """Return the name of a setting for a message.

    Args:
        setting: an argument, such as ``dtype``, or a key in it, such as ``parts.bottom``.
    """
    return _naming.get()(setting)


@contextmanager
def naming_group(group: str) -> Iterator[None]:
    """Have messages name each setting as a key of ``group``, such as ``optimizer``."""
    with _naming_by(lambda setting: f"{group}.{setting}"):
        yield


@contextmanager
def naming_as(names: Mapping[str, str]) -> Iterator[None]:
    """Have messages name settings as ``names`` says; those that are not in it keep their names.

    Args:
        names: for an argument, such as ``dtype``, its name in messages, such as ``model.dtype``. Keys in it follow.
    """

    def rename(setting: str) -> str:
        argument, dot, key = setting.partition(".")
        return names.get(argument, argument) + dot + key

    with _naming_by(rename):
        yield


@contextmanager
def _naming_by(rename: Callable[[str], str]) -> Iterator[None]:
    outer = _naming.get()
    token = _naming.set(lambda setting: outer(rename(setting)))
    try:
        yield
    finally:
        _naming.reset(token)
