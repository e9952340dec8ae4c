"""Messages name settings as whoever called knows them: arguments in the library, dotted settings from a configuration."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from splitlearn.activations import CacheSettings
from splitlearn.adapters import AdapterSettings
from splitlearn.app import naming_settings
from splitlearn.app.configuration import _NAMES
from splitlearn.naming import named, naming_as, naming_group
from splitlearn.settings import compose, setting_names
from splitlearn.training import Optimization, SplitCausalLM, SplitPrecision, parse_dtype
from tests.test_architecture import PACKAGE, floors, modules, unit_of

# SplitCausalLM has these as arguments, so what it says of their keys is right without a configuration, too.
OWN_GROUPS = ("activation_cache", "optimizer", "peft")
# Rows are read in many places, and by the app alone; runs are its records.
# The report says how a run is trained again, as one types it.
EXEMPT = ("data", "report", "runs", "settings")


def test_contexts_nest() -> None:
    assert named("dtype") == "dtype"
    with naming_as({"dtype": "model.dtype", "optimizer": "training.optimizer"}):
        assert (named("dtype"), named("dtype.of"), named("dtypes")) == ("model.dtype", "model.dtype.of", "dtypes")
        with naming_group("optimizer"):
            assert named("parts.top.train") == "training.optimizer.parts.top.train"
        assert named("precision") == "precision"
        assert copy_context().run(named, "dtype") == "model.dtype"
    with pytest.raises(KeyError), naming_group("peft"):
        raise KeyError
    assert named("dtype") == "dtype", "an error leaves nothing behind"


@pytest.mark.parametrize(
    ("call", "argument", "setting"),
    [
        (lambda: parse_dtype("int8"), "dtype", "model.dtype"),
        (lambda: SplitPrecision("64", {"top": "cpu"}), "precision", "trainer.precision"),
        (lambda: Optimization.from_plain({"learning_rate": -1}), "learning_rate", "learning_rate"),
        (lambda: AdapterSettings.from_plain({"method": "none such"}), "method", "method"),
        (lambda: CacheSettings.from_plain({"codec": "none such"}), "codec", "codec"),
        (lambda: made(optimizer={"learning_rate": -1}), "optimizer.learning_rate", "optimizer.learning_rate"),
        (lambda: made(optimizer={"parts": {"top": {"tain": 1}}}), "optimizer.parts.top.tain", "optimizer.parts.top.tain"),
        (lambda: made(peft={"method": "none such"}), "peft.method", "peft.method"),
        (lambda: made(peft={"method": "lora", "parts": {"middle": {}}}), "peft.parts", "peft.parts"),
        (lambda: made(activation_cache={"max_gib": 0}), "activation_cache.max_gib", "activation_cache.max_gib"),
        (lambda: made(dtype="int8"), "dtype", "model.dtype"),
    ],
)
def test_the_library_speaks_of_arguments_and_the_app_of_settings(call: Callable[[], Any], argument: str, setting: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(argument)} (is|names) "):
        call()
    with naming_settings(), pytest.raises(ValueError, match=rf"^{re.escape(setting)} (is|names) "):
        call()


def made(**settings: Any) -> SplitCausalLM:
    return SplitCausalLM("absent", 1, 2, **settings)


def test_settings_that_messages_name_are_there() -> None:
    there = {name for choice in ([], ["split=auto"], ["callbacks=find_learning_rate"]) for name in settings_with(choice)}
    absent = [
        name for name in _NAMES.values() if not any(setting == name or setting.startswith(f"{name}.") for setting in there)
    ]
    assert not absent


def settings_with(choice: list[str]) -> set[str]:
    return set(setting_names("train", compose(*choice)))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and content of every text of a module that is no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_the_library_knows_no_configuration() -> None:
    settings = {name for name in settings_with([]) | settings_with(["split=auto"]) if "." in name}
    # With the beginnings of names that an f-string goes on with.
    starts = {".".join(name.split(".")[:2]) for name in settings} | {f"{name.split('.')[0]}." for name in settings}
    plan = floors()
    wrong = []
    for module, path in modules().items():
        floor = plan.get(unit_of(module), 9)
        if floor > 5 or unit_of(module) in EXEMPT:
            continue
        for line, text in texts(path):
            names = [name for name in re.findall(r"(?<![\w.])[a-z_]+\.(?:[a-z_]+|$)", text) if name in starts]
            if floor == 5:
                names = [name for name in names if name.split(".")[0] not in OWN_GROUPS]
            wrong += [f"{path.relative_to(PACKAGE.parent)}:{line} says {name}" for name in names]
    assert not wrong, "say named(...) of the argument instead (splitlearn/naming.py):\n" + "\n".join(wrong)
