"""Configurations: where they are, composing them, and making the objects that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf


def conf_folder() -> Path:
    """Return the folder of the configuration files, in a checkout as in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def compose(*overrides: str, config_name: str = "train") -> DictConfig:
    """Compose a configuration as the command line does, for notebooks and tests.

    Args:
        *overrides: as on the command line, for example ``"split.point_1=2"``.
        config_name: the file in ``conf/`` to start from.
    """
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return hydra_compose(config_name, overrides=list(overrides))


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
