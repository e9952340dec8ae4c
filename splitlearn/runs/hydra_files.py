"""What Hydra was told of a run: the files in ``.hydra``, by which a sweep that is started again knows its runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from splitlearn.files import write_text

HYDRA_FOLDER = ".hydra"
OVERRIDES_FILE = "overrides.yaml"
# Settings that change none of a run's figures. A choice of the group sweep says which runs there are.
_OF_NO_ACCOUNT = frozenset({"ckpt_path", "logger", "overwrite", "save_parts", "sweep", "tags", "verbose"})
_MAX_BYTES = 2**20


def write_hydra_files(folder: Path, cfg: DictConfig, hydra: Any) -> None:
    """Write into a run's folder what Hydra itself writes before a job, and so over an earlier run's files.

    Args:
        folder: the run's folder.
        cfg: the run's configuration.
        hydra: Hydra's own.
    """
    target = folder / HYDRA_FOLDER
    write_text(target / "config.yaml", OmegaConf.to_yaml(cfg))
    write_text(target / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})))
    write_text(target / OVERRIDES_FILE, OmegaConf.to_yaml(hydra.overrides.task))


def other_setting(folder: Path, overrides: Iterable[str]) -> str | None:
    """Say in which setting the run in a folder differs from one with these overrides; None if in none that its figures show.

    Args:
        folder: the run's folder. A run without a readable ``.hydra/overrides.yaml`` is taken for the same one.
        overrides: as on the command line, of one job.
    """
    earlier = _read_overrides(folder / HYDRA_FOLDER / OVERRIDES_FILE)
    if earlier is None:
        return None
    before, now = _by_key(earlier), _by_key(overrides)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            first, second = (values.get(key, f"{key} not given") for values in (before, now))
            return f"{first} then and {second} now"
    return None


def _read_overrides(path: Path) -> list[str] | None:
    try:
        with path.open("rb") as file:
            values = yaml.safe_load(file.read(_MAX_BYTES))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return [str(value) for value in values] if isinstance(values, list) else None


def _by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Return overrides by the setting that they are of, without those of no account."""
    pairs = {override.lstrip("+").partition("=")[0].lstrip("~"): override.lstrip("+") for override in overrides}
    return {key: override for key, override in pairs.items() if key.partition(".")[0] not in _OF_NO_ACCOUNT}
