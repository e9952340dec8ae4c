"""Plain values of configurations, and making the objects that they name."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf


def plain(value: Any) -> Any:
    """Return a part of a configuration as plain values."""
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value


def make(settings: Any, **extra: Any) -> Any:
    """Make the object that settings name; what it says of a bad setting is raised as it is, without Hydra's wrapping."""
    try:
        return instantiate(settings, **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, (ValueError, FileNotFoundError, ImportError)):
            raise error.__cause__ from error
        target = settings.get("_target_", "?")
        raise ValueError(f"{target} cannot be made from its settings: {error.__cause__ or error}") from error
