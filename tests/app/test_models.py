"""Every command opens its model once: configuration, files, structure and index are each read a single time."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from splitlearn.app import compose, evaluate, export, generate, plan, train, verify
from splitlearn.app.models import request_of
from splitlearn.checkpoint import CheckpointSource
from splitlearn.loading import configuration, matching
from splitlearn.model import blueprint

SHORT = ["trainer.max_steps=1", "data.max_train_blocks=8", "data.max_val_blocks=4", "trainer.enable_progress_bar=false"]
SHORT += ["verbose=false", "data.block_size=32", "trainer.log_every_n_steps=1"]
ONCE = {"CheckpointSource": 1, "read_config_of": 1, "draw_blueprint": 1, "match_tensors": 1}
COUNTED = (configuration.read_config_of, blueprint.draw_blueprint, matching.match_tensors)


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the calls of all that reads a model, from whichever module they come."""
    calls: Counter[str] = Counter()

    def counted(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(function)
        def count(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointSource, "__init__", counted(CheckpointSource.__init__, "CheckpointSource"))
        for function in COUNTED:
            replacement = counted(function, function.__name__)
            for module in [module for name, module in sys.modules.items() if name.startswith("splitlearn")]:
                if vars(module).get(function.__name__) is function:
                    patch.setattr(module, function.__name__, replacement)
        yield calls


@pytest.mark.parametrize("setting", ["quantization=int3", "unexpected_tensors=keep", "dtype=int8"])
def test_what_the_library_refuses_is_told_by_the_names_of_the_command_line(setting: str) -> None:
    name, _, value = setting.partition("=")
    model = compose(f"model.{setting}", config_name="plan").model
    with pytest.raises(ValueError, match=f"^model.{name} is '{value}'; use "):
        request_of(model)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    folder = tmp_path_factory.mktemp("run")
    with counting() as calls:
        train(compose(*SHORT, "peft=lora"), folder=folder)
    return folder, calls


def test_train(run: tuple[Path, Counter[str]]) -> None:
    assert run[1] == ONCE


def test_train_in_two_dtypes(run: tuple[Path, Counter[str]], tmp_path: Path) -> None:
    """A frozen trunk keeps bfloat16, the others are held in float32: the structure is drawn in both, all else is read once."""
    base = tmp_path / "base"
    export(compose(f"run={run[0]}", f"out={base}", "dtype=bfloat16", config_name="export"))
    settings = ["model=pretrained", f"model.name_or_path={base}", "optimizer.parts.trunk.train=false", "save_parts=false"]
    with counting() as calls:
        result = train(compose(*SHORT, *settings, "split=thirds"), folder=tmp_path / "run")
    assert [part.dtype.itemsize for part in result.module.parts] == [4, 2, 4]
    assert calls == ONCE | {"draw_blueprint": 2}


@pytest.mark.parametrize("command", ["generate", "export", "evaluate"])
def test_what_is_done_with_a_run(command: str, run: tuple[Path, Counter[str]], tmp_path: Path) -> None:
    settings = {"generate": ["prompt=def", "max_new_tokens=2"], "export": [f"out={tmp_path / 'out'}"], "evaluate": []}[command]
    cfg = compose(f"run={run[0]}", *settings, config_name=command)
    functions: dict[str, Callable[..., Any]] = {"generate": generate, "export": export, "evaluate": evaluate}
    with counting() as calls:
        functions[command](cfg)
    assert calls == ONCE


@pytest.mark.parametrize("overrides", [(), ("split=auto",), ("model.quantization=int8",)], ids=str)
def test_plan(overrides: tuple[str, ...]) -> None:
    with counting() as calls:
        plan(compose(*overrides, config_name="plan"))
    assert calls == ONCE


@pytest.mark.parametrize("streamed", [False, True])
def test_verify(streamed: bool) -> None:
    with counting() as calls:
        verify(compose(f"streamed={str(streamed).lower()}", "tokens=8", "new_tokens=2", config_name="verify"))
    assert calls == ONCE
