"""Refusing settings that nobody reads, and values that a setting cannot have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from types import NoneType
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf, ValidationError
from omegaconf.errors import InterpolationResolutionError, UnsupportedInterpolationType

from splitlearn.settings.commands import SCHEMAS
from splitlearn.settings.fields import Rule, settings_of
from splitlearn.settings.suggestions import suggestion
from splitlearn.settings.targets import TARGETS, TRAINER_RESERVED, TrainerSettings
from splitlearn.settings.typed import without_interpolation

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class SettingError(ValueError):
    """A setting that does not exist, or a value that it cannot have."""


def check(cfg: DictConfig, command: str) -> None:
    """Refuse a configuration with a setting that nobody reads, or a value of the wrong kind.

    Neither torch nor transformers is needed. Arguments of classes that no shipped configuration names are left to the class.

    Args:
        cfg: the command's configuration.
        command: such as ``"train"``; its schema is in `SCHEMAS`.

    Raises:
        SettingError: there is one; the sentence names it, and the setting that was probably meant.
    """
    _Check(command, tuple(setting_names(command, cfg))).node(cfg, SCHEMAS[command], "")


def setting_names(command: str, cfg: DictConfig | None = None) -> Iterator[str]:
    """Yield the dotted names of a command's settings.

    Args:
        command: such as ``"train"``.
        cfg: a configuration of it, whose data, callbacks and loggers are told too; None tells those of all data modules.
    """
    yield from _names(SCHEMAS[command], "", OmegaConf.to_container(cfg, resolve=False) if cfg is not None else None)


def _names(schema: type, prefix: str, values: Any) -> Iterator[str]:
    for key, kind, rule in settings_of(schema):
        name = f"{prefix}{key}"
        node = values.get(key) if isinstance(values, dict) else None
        if _is_group(kind):
            yield from _names(kind, f"{name}.", node)
        elif rule.each is not None:
            for inner in node if isinstance(node, dict) else ():
                yield from _names(rule.each, f"{name}.{inner}.", None)
        elif rule.holds == "object":
            known = _schema_of(node)
            for each in (known,) if known is not None else _usual_schemas(key):
                yield from _names(each, f"{name}.", None)
        elif rule.holds == "objects":
            for inner, values_of_one in node.items() if isinstance(node, dict) else ():
                known = _schema_of(values_of_one)
                yield from _names(known, f"{name}.{inner}.", None) if known is not None else ()
        elif key != "_target_":
            yield name


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)


def _schema_of(values: Any) -> type | None:
    return TARGETS.get(str(values.get("_target_"))) if isinstance(values, dict) else None


def _usual_schemas(name: str) -> Iterator[type]:
    for target, schema in TARGETS.items():
        if target.startswith("splitlearn.data.") if name == "data" else target.endswith(".Trainer"):
            yield schema


@dataclass(frozen=True)
class _Check:
    """The check of one configuration.

    Attributes:
        command: whose it is.
        names: the dotted names of all settings that there are.
    """

    command: str
    names: tuple[str, ...]

    def node(self, cfg: DictConfig, schema: type, prefix: str) -> None:
        """Check what stands under ``prefix``, such as ``"model."``."""
        known = {key: (kind, rule) for key, kind, rule in settings_of(schema)}
        for key in map(str, cfg):
            name = f"{prefix}{key}"
            if key not in known:
                raise SettingError(self._unknown(name, schema, known))
            if OmegaConf.is_missing(cfg, key) or (OmegaConf.is_interpolation(cfg, key) and not _resolves(cfg, key, name)):
                continue
            kind, rule = known[key]
            if _is_group(kind):
                self._group(cfg[key], kind, name)
            elif rule.each is not None:
                self._groups(cfg[key], rule.each, name)
            elif rule.holds == "object":
                self._object(cfg[key], name)
            elif rule.holds == "objects":
                for inner in cfg[key] or {}:
                    self._object(cfg[key][inner], f"{name}.{inner}")
            else:
                _check_value(schema, key, kind, rule, name, cfg[key])

    def _group(self, node: Any, schema: type, name: str) -> None:
        if OmegaConf.is_dict(node):
            self.node(node, schema, f"{name}.")
        elif node is not None:
            example = next(iter(settings_of(schema)))[0]
            raise SettingError(f"{name} is {node!r}; give its settings by name, such as {name}.{example}=...")

    def _groups(self, node: Any, schema: type, name: str) -> None:
        if not OmegaConf.is_dict(node):
            raise SettingError(f"{name} is {node!r}; give groups of settings by name, such as {name}.NAME={{...}}")
        for inner in node:
            self._group(node[inner], schema, f"{name}.{inner}")

    def _object(self, node: Any, name: str) -> None:
        """Check the arguments of an object whose class the project knows."""
        if node is None:
            return
        if not OmegaConf.is_dict(node):
            raise SettingError(f"{name} is {node!r}; give its settings by name, such as {name}._target_=...")
        target = node.get("_target_")
        if target is None:
            guess = suggestion(next((f"{name}.{key}" for key in node), name), self.names)
            meant = f"; {guess} was probably meant" if guess else ""
            raise SettingError(f"{name} names no class, so nobody reads it; give {name}._target_=...{meant}")
        if str(target) in TARGETS:
            self.node(node, TARGETS[str(target)], f"{name}.")

    def _unknown(self, name: str, schema: type, known: Iterable[str]) -> str:
        group, _, key = name.rpartition(".")
        if schema is TrainerSettings and key in TRAINER_RESERVED:
            return f"{name} is set by the project itself; {TRAINER_RESERVED[key]}"
        guess = suggestion(name, self.names)
        if guess:
            return f"{name} is no setting of {self.command}; {guess} was probably meant"
        there = ", ".join(each for each in known if each != "_target_")
        return f"{name} is no setting of {self.command}; {group or self.command} has {there or 'none'}"


def _resolves(cfg: DictConfig, key: str, name: str) -> bool:
    """Whether an interpolation can be resolved now: Hydra's own only while Hydra runs the command."""
    try:
        cfg[key]
    except UnsupportedInterpolationType:
        return False
    except InterpolationResolutionError as error:
        if "HydraConfig was not set" in str(error):
            return False
        written: Any = OmegaConf.to_container(cfg, resolve=False)
        raise SettingError(f"{name} is {written[key]}, which cannot be resolved: {str(error).splitlines()[0]}") from error
    return True


def _check_value(schema: type, key: str, kind: Any, rule: Rule, name: str, value: Any) -> None:
    if rule.choices:
        # 1 == True, but a number is no switch.
        if not any(type(value) is type(choice) and value == choice for choice in rule.choices):
            null = ", or null" if None in rule.choices else ""
            words = ", ".join(str(each).lower() for each in rule.choices if each is not None)
            raise SettingError(f"{name} is {value!r}; choose one of {words}{null}")
        return
    kinds = get_args(kind) or (kind,)
    if kind is Any or (value is None and NoneType in kinds) or (isinstance(value, str) and value in rule.words):
        return
    is_low = rule.least is not None and isinstance(value, (int, float)) and value < rule.least
    is_at_most = rule.above is not None and isinstance(value, (int, float)) and value <= rule.above
    if _is_of(schema, key, value) and not is_low and not is_at_most:
        return
    (wanted,) = (_KINDS[each] for each in kinds if each is not NoneType)
    if rule.above == 0:
        wanted = wanted.replace("a ", "a positive ", 1)
    elif rule.least is not None:
        wanted += f" of at least {rule.least}"
    shown = value if wanted == _KINDS[bool] else repr(value)
    others = (*(["null"] if NoneType in kinds else []), *rule.words)
    raise SettingError(f"{name} is {shown}; give {wanted}{''.join(f', or {other}' for other in others)}")


def _is_of(schema: type, key: str, value: Any) -> bool:
    """Whether OmegaConf takes the value for this field of the schema as it is; numbers may stand for text."""
    typed = OmegaConf.structured(schema)
    try:
        # The value is resolved by now: ${...} in it stands for itself.
        typed[key] = without_interpolation(value) if isinstance(value, str) else value
    except ValidationError:
        return False
    taken = typed[key]
    return isinstance(taken, str) or (taken == value and isinstance(taken, bool) == isinstance(value, bool))
