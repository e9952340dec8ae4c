"""Runs of a sweep: which of a run's settings the sweep varies, and the names that follow from them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

# The setting of Hydra's that says which settings all runs of a sweep share.
FIXED_KEYS = "hydra.job.config.override_dirname.exclude_keys"
_SAFE = re.compile(r"[\w.+-]+", re.ASCII)
_UNSAFE = re.compile(r"[^\w.+-]+", re.ASCII)
# Values and names beyond these are cut off. File systems take names of 255 bytes.
_LONGEST_VALUE, _LONGEST_NAME = 40, 160
_HASH_DIGITS = 8


def in_sweep() -> bool:
    """Return whether Hydra runs a job of a sweep in this process."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def sweep_folder() -> str | None:
    """Return the folder of the sweep that this process runs a job of, as it was given; None outside sweeps."""
    return str(HydraConfig.get().sweep.dir) if in_sweep() else None


def run_overrides() -> list[str]:
    """Return the swept settings of the job that Hydra runs in this process, such as ``["split.point_1=2", "seed=1"]``."""
    hydra: Any = HydraConfig.get()
    return swept(hydra.overrides.task, hydra.job.config.override_dirname.exclude_keys)


def key_of(override: str) -> str:
    """Return the setting that an override is of."""
    return override.partition("=")[0].lstrip("+~")


def fixed_keys(overrides: Iterable[str], swept_keys: Iterable[str]) -> str:
    """Return the override of Hydra that says which settings all runs of a sweep share.

    Args:
        overrides: of the command line.
        swept_keys: the settings among them that have several values.
    """
    keys = {key_of(override) for override in overrides} - set(swept_keys)
    names = ",".join(f"'{key}'" for key in sorted(keys) if not key.startswith("hydra"))
    return f"{FIXED_KEYS}=[{names}]"


def swept(overrides: Iterable[str], fixed: Iterable[str]) -> list[str]:
    """Return the overrides of a job that other jobs of its sweep have with other values.

    Args:
        overrides: of the job.
        fixed: the settings that all jobs share. What a sweeper adds is not among them.
    """
    shared = set(fixed)
    return [override.lstrip("+") for override in overrides if key_of(override) not in shared]


def run_name(overrides: Sequence[str], fixed: Sequence[str] = ()) -> str:
    """Return the name of a job's folder, such as ``split.point_1=2,seed=1``.

    Values that are long, or have characters that not every file system or shell takes as they are, are cut down and told apart
    by a hash.

    Args:
        overrides: of the job.
        fixed: the settings that all jobs of the sweep share.
    """
    name = ",".join(_safe(override) for override in swept(overrides, fixed)) or "run"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{_hash(','.join(swept(overrides, fixed)))}"


def _safe(override: str) -> str:
    key, equals, value = override.partition("=")
    is_safe = len(value) <= _LONGEST_VALUE and _SAFE.fullmatch(value) is not None
    short_key = _UNSAFE.sub("-", key)
    short_value = value if is_safe else f"{_UNSAFE.sub('-', value)[:_LONGEST_VALUE].strip('-')}-{_hash(override)}"
    return f"{short_key}{equals}{short_value}" if value else f"{short_key}{equals}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


def _sweep_or(otherwise: Any) -> Any:
    """Return the name of this job's sweep for loggers, or what stands for it in a single run."""
    folder = sweep_folder()
    return otherwise if folder is None else "/".join(Path(folder).parts[-3:]).lstrip("/")


def register_resolvers() -> None:
    """Have configurations take ``${run_name:...}``, ``${sweep_or:...}`` and ``${last_part:...}``, the last part of a path."""
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("sweep_or", _sweep_or, replace=True)
    OmegaConf.register_new_resolver("last_part", lambda path: Path(path).name, replace=True)


register_resolvers()
