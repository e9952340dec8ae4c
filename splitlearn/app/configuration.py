"""Plain values of configurations, and making the objects that they name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from splitlearn.naming import naming_as
from splitlearn.settings import without_interpolation

# Arguments of the library that configurations have under other names.
_NAMES = {
    "balance": "split.balance",
    "compile_layers": "compile",
    "dtype": "model.dtype",
    "every_n_train_steps": "callbacks.last_checkpoint.every_n_train_steps",
    "keep_every_n_steps": "keep_steps",
    "max_gib": "split.max_gib",
    "num_training_steps": "callbacks.learning_rate_finder.num_training_steps",
    "packing": "data.packing",
    "precision": "trainer.precision",
    "quantization": "model.quantization",
    "unexpected_tensors": "model.unexpected_tensors",
    "untie": "model.untie",
}


@contextmanager
def naming_settings() -> Iterator[None]:
    """Have messages name settings as configurations of runs, plans and verifications do; a context, or a decorator."""
    with naming_as(_NAMES):
        yield


def plain(value: Any) -> Any:
    """Return a part of a configuration as plain values."""
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value


def literal(values: Any) -> Any:
    """Make a configuration of plain values; each text stands for itself, also where it holds ``${...}``."""
    return OmegaConf.create(_escaped(values)) if isinstance(values, (dict, list)) else values


def _escaped(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _escaped(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_escaped(value) for value in values]
    return without_interpolation(values) if isinstance(values, str) else values


def make(settings: Any, **extra: Any) -> Any:
    """Make the object that settings name; what it says of a bad setting is raised as it is, without Hydra's wrapping."""
    try:
        return instantiate(settings, **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, (ValueError, FileNotFoundError, ImportError)):
            raise error.__cause__ from error
        target = settings.get("_target_", "?")
        raise ValueError(f"{target} cannot be made from its settings: {error.__cause__ or error}") from error
