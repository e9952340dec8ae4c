"""Codecs by name: those of this package, and those that installed packages bring."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points

from splitlearn.boundary.codecs.codec import CLASSES, Codec

# A package of its own names a module with codecs as an entry point of this group.
ENTRY_POINTS = "splitlearn.codecs"


def codec_class(name: str) -> type[Codec]:
    """Return the class of a codec.

    Args:
        name: as in settings, such as ``"int8"``.

    Raises:
        ValueError: no codec has the name.
    """
    _load_own()
    if name not in CLASSES:
        _load_installed()
    if name not in CLASSES:
        raise ValueError(f"there is no codec {name!r}; there are {', '.join(sorted(CLASSES))}")
    return CLASSES[name]


def codec_names() -> tuple[str, ...]:
    """Return the names of all codecs, sorted."""
    _load_own()
    _load_installed()
    return tuple(sorted(CLASSES))


def _load_own() -> None:
    package = importlib.import_module("splitlearn.boundary.codecs")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _load_installed() -> None:
    for entry_point in entry_points(group=ENTRY_POINTS):
        entry_point.load()
