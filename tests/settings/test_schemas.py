"""The schemas and ``conf/`` tell of the same settings. A new setting is added in both."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf

from splitlearn.settings import SCHEMAS, compose, conf_folder
from splitlearn.settings.fields import settings_of
from splitlearn.settings.targets import TARGETS, TRAINER_RESERVED
from tests.test_conf import FILES, overrides_for

# In schemas alone: what Trainer, Lightning's callbacks and loggers take besides, which a `+` adds.
IN_SIGNATURES = ("trainer", "callbacks", "logger")


def yaml_names(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and key not in ("settings", "parties", "forward", "backward", "defaults", "hydra"):
            yield from yaml_names(value, f"{prefix}{key}.")
        elif key not in ("defaults", "hydra"):
            yield f"{prefix}{key}"


def schema_names(schema: type, prefix: str = "") -> Iterator[str]:
    for name, kind, rule in settings_of(schema):
        if is_dataclass(kind) and isinstance(kind, type):
            yield from schema_names(kind, f"{prefix}{name}.")
        elif rule.holds is None:
            yield f"{prefix}{name}"


def names_in_files() -> dict[str, set[str]]:
    """The settings that the YAML file of each command, under its name with the ending, and those of each group have."""
    found: dict[str, set[str]] = {}
    for file in FILES:
        if file.parts[0] not in ("experiment", "debug"):
            place = file.parts[0]
            found.setdefault(place, set()).update(yaml_names(yaml.safe_load((conf_folder() / file).read_text())))
    return found


@pytest.mark.parametrize("command", SCHEMAS)
def test_a_commands_schema_has_the_settings_of_its_file(command: str) -> None:
    listed = {key for entry in OmegaConf.load(conf_folder() / f"{command}.yaml").defaults if entry != "_self_" for key in entry}
    chosen = {key for key in listed if not key.startswith("override") and key not in ("experiment", "debug", "sweep")}
    own: set[str] = set()
    groups: set[str] = set()
    for name, kind, _ in settings_of(SCHEMAS[command]):
        if name in chosen:
            groups.add(name)
        elif is_dataclass(kind) and isinstance(kind, type):
            # A group that stands in the command's own file.
            own |= {f"{name}.{inner}" for inner in schema_names(kind)}
        else:
            own.add(name)
    assert own == names_in_files()[f"{command}.yaml"]
    assert groups == chosen


# The groups of `train` and those of `attack`.
GROUPS: dict[str, type] = {
    name: kind
    for command in ("train", "attack")
    for name, kind, _ in settings_of(SCHEMAS[command])
    if is_dataclass(kind) and isinstance(kind, type)
}


@pytest.mark.parametrize("group", [name for name in GROUPS if (conf_folder() / name).is_dir() and name != "data"])
def test_a_groups_schema_has_the_settings_of_its_files(group: str) -> None:
    schema = GROUPS[group]
    # A null stands for all that a group of settings holds, where no other file says what that is.
    in_files = {name for name in names_in_files()[group] if not any(f.startswith(f"{name}.") for f in names_in_files()[group])}
    in_schema = {name for name in schema_names(schema) if not any(name.startswith(f"{each}.") for each in in_files)}
    assert in_schema == in_files


def test_the_data_modules_schemas_have_the_settings_of_their_files() -> None:
    targets = [target for target in TARGETS if target.startswith("splitlearn.data.")]
    for target in targets:
        files = [yaml.safe_load(path.read_text()) for path in (conf_folder() / "data").glob("*.yaml")]
        in_files = {name for values in files if values["_target_"] == target for name in yaml_names(values)}
        assert in_files == set(schema_names(TARGETS[target]))


@pytest.mark.parametrize("file", [file for file in FILES if file.parts[0] in IN_SIGNATURES], ids=str)
def test_every_shipped_target_has_a_schema(file: Path) -> None:
    def targets(node: Any) -> Iterator[str]:
        for key, value in node.items():
            if key == "_target_":
                yield value
            elif isinstance(value, dict):
                yield from targets(value)

    assert set(targets(yaml.safe_load((conf_folder() / file).read_text()))) <= set(TARGETS)
    compose(*overrides_for(file))


def arguments_of(target: str) -> tuple[set[str], bool]:
    found = get_object(target)
    parameters = inspect.signature(found).parameters.values()
    taken = {each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}
    return taken, len(taken) < len(parameters)


# What the project sets itself or has no use for, and what a class hands on to a library.
LEFT_OUT = {
    "lightning.pytorch.Trainer": set(TRAINER_RESERVED),
    "lightning.pytorch.loggers.WandbLogger": {"experiment"},
    "splitlearn.training.callbacks.FindBatchSize": {"batch_arg_name"},
    "splitlearn.training.callbacks.FindLearningRate": {"attr_name", "update_attr"},
}


@pytest.mark.parametrize("target", [target for target in TARGETS if not target.startswith("splitlearn.data.")])
def test_a_schema_has_the_arguments_of_its_class(target: str) -> None:
    taken, hands_on = arguments_of(target)
    in_schema = set(schema_names(TARGETS[target])) - {"_target_"}
    assert taken - in_schema == LEFT_OUT.get(target, set())
    assert hands_on or in_schema <= taken


def test_schemas_are_structured_configurations() -> None:
    """OmegaConf itself takes each of them, which is how the kinds of values are checked."""
    for schema in (*SCHEMAS.values(), *TARGETS.values()):
        assert OmegaConf.is_config(OmegaConf.structured(schema))
