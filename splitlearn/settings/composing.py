"""Composing a command's configuration, with one sentence for what cannot be composed."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from splitlearn.settings.checking import SettingError, check
from splitlearn.settings.commands import SCHEMAS
from splitlearn.settings.typed import parse_override, with_literal_text

# Launchers that come with other packages.
_LAUNCHERS_OF_OTHERS = dict.fromkeys(("joblib", "submitit_local", "submitit_slurm"), "'splitlearn[sweep]'")
_LAUNCHERS_OF_OTHERS["ray"] = "hydra-ray-launcher"


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

    Raises:
        SettingError: a setting does not exist, or cannot have its value.
    """
    return compose_for(config_name, [with_literal_text(each, config_name) for each in overrides])[0]


def compose_for(
    command: str, overrides: list[str], config_name: str | None = None, config_dir: str | None = None
) -> tuple[DictConfig, list[str]]:
    """Compose and check a command's configuration.

    A setting that a schema has is set with or without a ``+``, whether or not the YAML files have it.

    Args:
        command: such as ``"train"``.
        overrides: in Hydra's grammar, without sweeps.
        config_name: another file to start from; None takes the command's.
        config_dir: a folder with more configuration files.

    Returns:
        The configuration, and overrides with which Hydra composes it.

    Raises:
        SettingError: a setting does not exist, or cannot have its value.
    """
    folder = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir is not None else []
    if config_dir is not None and not Path(config_dir).is_dir():
        raise SettingError(f"--config-dir is {config_dir}, which is no folder")
    for override in overrides:
        _check_form(override)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        name = config_name or command
        try:
            cfg = hydra_compose(name, overrides=[*overrides, *folder])
        except (HydraException, OmegaConfBaseException) as error:
            # Hydra knows the YAML files alone: what they lack needs a +, and what they have must not have one.
            with_force = [forced(each) for each in overrides]
            try:
                cfg, overrides = hydra_compose(name, overrides=[*with_force, *folder]), with_force
            except (HydraException, OmegaConfBaseException):
                raise SettingError(_sentence(error)) from error
    if command in SCHEMAS:
        check(cfg, command)
    return cfg, overrides


def _check_form(override: str) -> None:
    """Refuse what is no ``name=value``, and choices of groups that are no words."""
    key, equals, _ = override.partition("=")
    name = key.lstrip("+~")
    if not name or (not equals and not key.startswith("~")):
        raise SettingError(f"{override} is no setting; give settings as NAME=VALUE")
    parsed = parse_override(override)
    if parsed is None:
        raise SettingError(f"{override} cannot be read; put quotes around the value within the shell's: {name}='\"...\"'")
    if parsed.is_sweep_override():
        raise SettingError(f"{override} has several values; add -m to run one after the other, or give a list as [...]")
    if (conf_folder() / name).is_dir() and equals and not isinstance(parsed.value(), (str, list)):
        raise SettingError(_no_choice(name, override.partition("=")[2], _choices(name)))


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def _no_choice(group: str, choice: str, options: list[str]) -> str:
    package = _LAUNCHERS_OF_OTHERS.get(choice) if group == "hydra/launcher" else None
    if package is not None:
        return f"hydra/launcher={choice} is not installed; pip install {package}"
    close = get_close_matches(choice, options, n=1)
    meant = f"; {group}={close[0]} was probably meant" if close else ""
    return f"{group}={choice} is no choice of {group}; there are {', '.join(options)}{meant}"


def forced(override: str) -> str:
    """Return the override of a value such that it is set whether it is there or not; choices of groups stay as they are."""
    key = override.partition("=")[0].lstrip("+")
    is_group = (conf_folder() / key).is_dir() or "/" in key or "@" in key
    return override if is_group or override.startswith("~") or key.startswith("hydra.") else f"++{override.lstrip('+')}"


def _sentence(error: Exception) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if not group:
            return f"there is no configuration {choice}; give the name of a YAML file in conf or --config-dir"
        return _no_choice(group, choice, list(error.options or ()))
    first = str(error).splitlines()[0]
    cause = f": {str(error.__cause__).splitlines()[0]}" if error.__cause__ is not None and str(error.__cause__) else ""
    return first.rstrip(".") + cause
