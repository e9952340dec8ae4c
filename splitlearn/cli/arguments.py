"""A command's arguments as people type them, made into those that Hydra reads; what cannot be meant is refused here."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from splitlearn.cli.folders import require_folders, with_folders
from splitlearn.cli.information import print_help, print_version
from splitlearn.cli.prompts import require_prompt, with_prompts
from splitlearn.settings import (
    SettingError,
    compose_for,
    fixed_keys,
    forced,
    key_of,
    parse_override,
    setting_names,
    suggestion,
    with_literal_text,
)

# So many values of each swept setting are checked before the sweep; each is checked in its own run, too.
_CHECKED_VALUES = 5


def prepare(command: str, argv: list[str]) -> list[str]:
    """Check a command's arguments and return them in Hydra's grammar.

    Args:
        command: such as ``"train"``.
        argv: the arguments after it.

    Raises:
        SettingError: one cannot be meant.
        SystemExit: help or the version was asked for, and has been printed.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    arguments, texts = argv[:end], argv[end + 1 :]
    if "--version" in arguments:
        print_version()
        raise SystemExit(0)
    parsed = _parse(arguments, command)
    if parsed.experimental_rerun is not None:
        raise SettingError("--experimental-rerun reads a pickle file, which may run code; give the settings of that run again")
    if parsed.shell_completion or parsed.hydra_help:
        return argv
    overrides = list(parsed.overrides)
    flags = _without(arguments, overrides)
    if parsed.help:
        print_help(command, overrides)
        raise SystemExit(0)
    if command == "generate":
        overrides = with_prompts(overrides, texts)
    elif command == "report":
        overrides = with_folders(overrides, texts)
    elif texts:
        raise SettingError(f"{texts[0]} is no setting of {command}; give settings as NAME=VALUE")
    overrides = [with_literal_text(each, command, sweeps=parsed.multirun) for each in overrides]
    if not parsed.multirun and parsed.cfg is None and parsed.info is None:
        _refuse_grid(overrides)
    if parsed.config_path is None:
        overrides = _checked(command, overrides, parsed)
    return [*flags, *overrides, *(_shared_settings(overrides) if parsed.multirun else [])]


def _checked(command: str, overrides: list[str], parsed: argparse.Namespace) -> list[str]:
    needs_force = False
    for one_run in _runs(overrides) if parsed.multirun else [overrides]:
        cfg, composed_of = compose_for(command, one_run, parsed.config_name, parsed.config_dir)
        needs_force |= composed_of != one_run
        if command == "generate" and parsed.cfg is None and parsed.info is None:
            require_prompt(cfg)
        if command == "report" and parsed.cfg is None and parsed.info is None:
            require_folders(cfg)
    return [forced(each) for each in overrides] if needs_force else overrides


def _refuse_grid(overrides: list[str]) -> None:
    """Refuse a grid of runs where one run is asked for."""
    grid = next((override for override in overrides if key_of(override) == "sweep" and not override.endswith("=null")), None)
    if grid is not None:
        raise SettingError(f"{grid} is a grid of runs; add -m to run one after the other")


def _shared_settings(overrides: list[str]) -> list[str]:
    """Return the override that tells runs of a sweep which settings they share, unless the user has said so."""
    varied = [override for override in overrides if (parsed := parse_override(override)) and parsed.is_sweep_override()]
    shared = fixed_keys(overrides, map(key_of, varied))
    return [] if any(key_of(override) == key_of(shared) for override in overrides) else [shared]


def _runs(overrides: list[str]) -> Iterable[list[str]]:
    """Yield overrides without sweeps in which every value of each sweep comes once, the others at their first."""
    values = [_values(override) for override in overrides]
    yield [each[0] for each in values if each]
    for index, several in enumerate(values):
        for value in several[1:_CHECKED_VALUES]:
            yield [value if place == index else each[0] for place, each in enumerate(values) if each]


def _values(override: str) -> list[str]:
    """Return an override for each value of a sweep; none where the values are only known to the sweeper."""
    parsed = parse_override(override)
    if parsed is None or not parsed.is_sweep_override():
        return [override]
    try:
        return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]
    except Exception:
        # Intervals, and patterns for the names of choices.
        return []


def _parse(arguments: list[str], command: str) -> argparse.Namespace:
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise SettingError(message)

    parser.error = refuse  # type: ignore[method-assign]
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        typed = unknown[0].lstrip("-").partition("=")[0].replace("-", "_")
        name = suggestion(typed, tuple(setting_names(command))) or "NAME"
        raise SettingError(f"{unknown[0]} is no option; settings are given without dashes, as {name}=VALUE")
    return parsed


def _without(arguments: list[str], overrides: list[str]) -> list[str]:
    """Return what is left of the arguments without the overrides, which are among them in the same order."""
    left, rest = [], list(overrides)
    for argument in arguments:
        if rest and argument == rest[0]:
            rest.pop(0)
        else:
            left.append(argument)
    return left
