"""What Hydra was told of a run: the files in ``.hydra``, by which a sweep that is started again knows its runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from splitlearn.files import write_text
from splitlearn.runs.config import HYDRA_FOLDER, OVERRIDES_FILE, read_run_overrides

# Settings that change none of a run's figures. A choice of the group sweep says which runs there are.
_OF_NO_ACCOUNT = frozenset({"ckpt_path", "logger", "overwrite", "save_parts", "sweep", "tags", "verbose"})


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
    earlier = read_run_overrides(folder)
    if earlier is None:
        return None
    before, now = _by_key(earlier), _by_key(overrides)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            first, second = (values.get(key, f"{key} not given") for values in (before, now))
            return f"{first} then and {second} now"
    return None


def _by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Return overrides by the setting that they are of, without those of no account."""
    pairs = {override.lstrip("+").partition("=")[0].lstrip("~"): override.lstrip("+") for override in overrides}
    return {key: override for key, override in pairs.items() if key.partition(".")[0] not in _OF_NO_ACCOUNT}
