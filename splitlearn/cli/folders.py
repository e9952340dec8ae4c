"""Folders as they are typed: as arguments, without the name of a setting."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from splitlearn.settings import SettingError, quoted, setting_names


def with_folders(overrides: list[str], folders: list[str]) -> list[str]:
    """Return the settings among the arguments of ``report``, with its folders as one of them.

    An argument is a folder if it has no ``=``, or if there is a folder of that name and it sets no setting: names of runs have
    an ``=``. All that comes after ``--`` are folders.

    Args:
        overrides: the arguments without options.
        folders: those after ``--``.

    Raises:
        SettingError: folders are given in two ways.
    """
    settings = [argument for argument in overrides if not _is_folder(argument)]
    named = [argument for argument in overrides if _is_folder(argument)] + folders
    if named and any(setting.partition("=")[0].lstrip("+") == "folders" for setting in settings):
        raise SettingError("folders are given as folders=... and without the name; give them in one way")
    return [*settings, f"folders=[{','.join(map(quoted, named))}]"] if named else settings


def require_folders(cfg: DictConfig) -> None:
    """Refuse a configuration of ``report`` that names no folder.

    Raises:
        SettingError: it names none, or something else.
    """
    value = None if OmegaConf.is_missing(cfg, "folders") else cfg.folders
    names = [value] if isinstance(value, str) else value if OmegaConf.is_list(value) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise SettingError("no folder is named; give that of a sweep or of a run: report multirun/DATE/TIME")


def _is_folder(argument: str) -> bool:
    name, equals, _ = argument.partition("=")
    if not equals:
        return not argument.startswith("~")
    return name.lstrip("+") not in setting_names("report") and Path(argument).is_dir()
