"""Plain values of configurations, and making the objects that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from splitlearn.naming import naming_as
from splitlearn.settings import without_interpolation

_HYDRA_KEYS = ("_target_", "_convert_", "_recursive_", "_partial_", "_args_")
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
    "rounds": "placement.rounds",
    "unexpected_tensors": "model.unexpected_tensors",
    "untie": "model.untie",
    "microbatches": "placement.microbatches",
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
    """Make the object that settings name; what it says of a bad setting is raised as it is.

    Hydra finds what ``_target_`` names, and its other keys mean what they mean there. The arguments do not pass through Hydra:
    it resolves interpolations more than once, so that a text that holds ``${...}`` would not arrive as it is.

    Args:
        settings: a configuration, or a dictionary of values and configurations.
        **extra: further arguments, which are handed on as they are, and keys of Hydra's; both win over the settings.

    Raises:
        ValueError: the object cannot be made.
        FileNotFoundError: a file that it reads is not there.
        ImportError: what ``_target_`` names is not installed.
    """
    values = {name: plain(value) for name, value in settings.items() if name not in extra}
    values |= {name: extra.pop(name) for name in _HYDRA_KEYS if name in extra}
    try:
        return _make(values, extra)
    except (ValueError, FileNotFoundError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, InstantiationException) and isinstance(error.__cause__, (ValueError, ImportError)):
            raise error.__cause__ from error
        raise ValueError(f"{values.get('_target_', '?')} cannot be made from its settings: {error}") from error


def _make(values: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
    target = instantiate(literal({"_target_": values["_target_"], "_partial_": True}))
    is_plain, makes_inner = values.get("_convert_", "none") != "none", values.get("_recursive_", True)
    made = {name: _argument(value, is_plain, makes_inner) for name, value in values.items() if name not in _HYDRA_KEYS}
    made |= extra
    positional = [_argument(value, is_plain, makes_inner) for value in values.get("_args_", ())]
    return partial(target, *positional, **made) if values.get("_partial_") else target(*positional, **made)


def _argument(value: Any, is_plain: bool, makes_inner: bool) -> Any:
    """Return a value as an object's argument: inner objects are made, other dictionaries and lists are as Hydra gives them."""
    if makes_inner and _names_object(value):
        if isinstance(value, list):
            return [_argument(item, is_plain, makes_inner) for item in value]
        if "_target_" in value:
            return _make({"_convert_": "all" if is_plain else "none", **value}, {})
        return {key: _argument(item, is_plain, makes_inner) for key, item in value.items()}
    return value if is_plain else literal(value)


def _names_object(value: Any) -> bool:
    """Whether a value is settings of an object, or holds some."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(_names_object, value.values()))
    return isinstance(value, list) and any(map(_names_object, value))
