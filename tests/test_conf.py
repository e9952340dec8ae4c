"""Every configuration file composes, names things that exist, and explains itself."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf

from splitlearn.app import compose, conf_folder
from splitlearn.app.configuration import plain
from splitlearn.attacks import AttackPlan
from splitlearn.training import Optimization

FILES = sorted(path.relative_to(conf_folder()) for path in conf_folder().rglob("*.yaml"))
GROUPS = {
    "model": 8,
    "split": 5,
    "placement": 7,
    "boundary": 11,
    "defence": 5,
    "data": 5,
    "peft": 3,
    "activation_cache": 3,
    "optimizer": 1,
    "trainer": 1,
    "callbacks": 15,
    "logger": 6,
    "experiment": 2,
    "debug": 2,
    "attack": 4,
    "sweep": 1,
    "hydra/launcher": 1,
    "hydra/sweeper": 1,
}
REQUIRED = {
    "model/pretrained": "model.name_or_path=my_model",
    "data/text_files": "data.source=notes.txt",
    "data/hub_text": "data.source=hub:someone/texts",
    "data/instructions": "data.source=rows.jsonl",
    "peft/custom": "peft.method=ia3",
    "prepare": "",
}

# What a class of Lightning hands on to a library that need not be installed.
HANDED_ON = {"lightning.pytorch.loggers.WandbLogger": {"group", "tags"}}


def overrides_for(file: Path) -> list[str]:
    choice = f"{file.parent}={file.stem}"
    needed = REQUIRED.get(str(file.with_suffix("")))
    return [choice, *([needed] if needed else [])]


def test_the_number_of_files() -> None:
    """If a file is added, it is counted here, so none is missed by the tests below."""
    counts: dict[str, int] = {}
    for file in FILES:
        counts[str(file.parent)] = counts.get(str(file.parent), 0) + 1
    assert counts == {".": 11, **GROUPS}


@pytest.mark.parametrize("file", [file for file in FILES if file.parent != Path()], ids=str)
def test_every_choice_composes_and_resolves(file: Path) -> None:
    if file.parent == Path("attack") and file.stem != "none":
        AttackPlan.from_plain(plain(compose(*overrides_for(file), config_name="attack").attack))
        return
    cfg = compose(*overrides_for(file), "run_folder=/tmp/run")
    resolved: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check_targets(resolved)
    Optimization.from_plain(resolved["optimizer"])


def test_top_level_files_compose() -> None:
    names = {path.name for path in FILES if path.parent == Path()}
    assert names == {
        f"{name}.yaml"
        for name in (
            "train",
            "plan",
            "verify",
            "generate",
            "evaluate",
            "attack",
            "export",
            "prepare",
            "report",
            "certificates",
            "serve",
        )
    }
    check_targets(OmegaConf.to_container(compose("run_folder=/tmp/run"), resolve=True, throw_on_missing=True))
    compose("source=a.gguf", "out=b", config_name="prepare")
    compose("out=a", config_name="certificates")
    compose(config_name="serve")
    compose("run=a", "out=b", config_name="export")
    compose("run=a", config_name="evaluate")
    compose("run=a", config_name="attack")
    compose("folders=[a, b]", config_name="report")
    compose("run=a", "prompt=b", config_name="generate")
    for name in ("plan", "verify"):
        OmegaConf.to_container(compose(config_name=name), resolve=True, throw_on_missing=True)


def check_targets(node: Any) -> None:
    """Each ``_target_`` exists, and takes every setting beside it."""
    if isinstance(node, list):
        for each in node:
            check_targets(each)
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        # A class that hands further settings on takes what those that it is made from take.
        target = get_object(node["_target_"])
        owners = [owner for owner in target.__mro__ if "__init__" in vars(owner)] if inspect.isclass(target) else [target]
        taken: set[str] = set()
        for owner in owners:
            parameters = inspect.signature(owner.__init__ if inspect.isclass(owner) else owner).parameters
            taken |= set(parameters)
            if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
                break
        unknown = set(node) - {"_target_"} - taken - HANDED_ON.get(node["_target_"], set())
        assert not unknown, f"{node['_target_']} takes no {unknown}"
    for each in node.values():
        check_targets(each)


def test_the_choices_that_train_yaml_lists_are_those_that_exist() -> None:
    text = (conf_folder() / "train.yaml").read_text()
    for group in ("model", "split", "placement", "boundary", "defence", "data", "peft", "activation_cache"):
        line = next(line for line in text.splitlines() if line.strip().startswith(f"- {group}:"))
        listed = set(line.split("#")[1].split(":")[1].replace(" ", "").split(","))
        assert listed == {file.stem for file in FILES if file.parent == Path(group)}


def test_every_default_of_train_yaml_has_a_comment() -> None:
    lines = (conf_folder() / "train.yaml").read_text().split("hydra:\n")[0].splitlines()
    settings = [line for line in lines if ":" in line and not line.startswith(("#", "defaults"))]
    assert len(settings) == 40
    assert all("#" in line for line in settings)


def test_experiments_begin_with_their_command() -> None:
    for file in FILES:
        if file.parent == Path("experiment"):
            lines = (conf_folder() / file).read_text().splitlines()
            assert lines[:2] == ["# @package _global_", f"# python train.py experiment={file.stem}"]


def test_configuration_files_name_only_our_and_lightnings_classes() -> None:
    for file in FILES:
        for line in (conf_folder() / file).read_text().splitlines():
            if "_target_" in line:
                target = line.split(":")[1].strip()
                assert target.startswith(("splitlearn.", "lightning.pytorch.", "hydra_plugins.splitlearn_")), file
        assert isinstance(yaml.safe_load((conf_folder() / file).read_text()), dict)
