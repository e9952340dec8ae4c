"""What is asked of a command line, and what is misspelt on it, is answered before the libraries that work are imported."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Of CPU time; importing torch and transformers takes several times as much, and what is measured a quarter of it.
MOST_SECONDS = 2.0
# Importing one of these fails the command.
FORBIDDEN = ("torch", "transformers", "lightning", "peft", "datasets")
START = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {forbidden}:
            raise AssertionError("imported " + name)
sys.meta_path.insert(0, Refuse())
sys.argv = {argv}
sys.path.insert(0, {root})
runpy.run_path({script}, run_name="__main__") if {script} else runpy.run_module("splitlearn", run_name="__main__")
"""


def run(tmp_path: Path, *arguments: str, script: str = "", **environment: str) -> tuple[int, str, str, float]:
    code = START.format(
        forbidden=FORBIDDEN, argv=[script or "splitlearn", *arguments], script=repr(script), root=repr(str(ROOT))
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stdout, done.stderr, seconds


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["trian"], 2, "error: 'trian' is no command; there are train, plan, "),
        (["train", "+learning_rate=1e-3"], 2, "error: learning_rate is no setting of train; optimizer.learning_rate was prob"),
        (["train", "-m", "trainer.max_epochs=1,three"], 2, "error: trainer.max_epochs is 'three'; give a whole number"),
        (["plan", "model=nope"], 2, "error: model=nope is no choice of model; there are embedded, "),
        (["verify", "+model.foo=1"], 2, "error: model.foo is no setting of verify"),
        (["generate", "run=a"], 2, "error: prompt is not set; give a text"),
        (["export", "+foo=1"], 2, "error: foo is no setting of export"),
        (["prepare", "max_shard_size={}"], 0, ""),
        (["--version"], 0, "torch "),
        (["train", "--help"], 0, "gradient_checkpointing: false"),
        (["plan", "rows=3", "--cfg", "job"], 0, "rows: 3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_answer_comes_at_once(arguments: list[str], status: int, told: str, tmp_path: Path) -> None:
    if arguments[0] == "prepare":
        arguments = [*arguments, "--cfg", "job"]
    code, out, err, seconds = run(tmp_path, *arguments)
    assert (code, told in out + err) == (status, True), out + err
    assert err.count("\n") == (status == 2), err
    assert seconds < MOST_SECONDS
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_certificates_are_made_at_once_and_never_again(tmp_path: Path) -> None:
    arguments = ("certificates", "out=keys", "parties=[server,alice]", "hosts=[trunk.example.org,10.0.0.7]", "days=7")
    code, out, err, seconds = run(tmp_path, *arguments)
    assert (code, err) == (0, "")
    assert seconds < MOST_SECONDS
    lines = out.splitlines()
    assert lines[0].startswith("wrote keys, valid until ")
    assert lines[1].startswith("  keys/server: hand it to server, which serves at trunk.example.org, 10.0.0.7, over a way")
    assert lines[2].startswith("  keys/alice: hand it to alice, over a way that nobody else can read")
    assert lines[3] == "  keys/authority: keep it; who has its key can make parties"
    assert lines[4].startswith("the authority's SHA-256, ")
    assert not list((tmp_path / "keys").rglob("*.yaml"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    code, out, err, _ = run(tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert err == "error: out=keys exists already, and keys are never overwritten; name a new folder\n"
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}


def test_the_script_answers_likewise(tmp_path: Path) -> None:
    code, _, err, seconds = run(tmp_path, "data.sede=1", script=str(ROOT / "train.py"))
    assert (code, err) == (2, "error: data.sede is no setting of train; data.seed was probably meant\n")
    assert seconds < MOST_SECONDS


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("splitlearn ", "train plan"),
        ("splitlearn tr", "train"),
        ("splitlearn plan lora_", "lora_rank="),
        ("splitlearn train model=qwen2_0", "model=qwen2_0_5b"),
    ],
)
def test_the_shell_completes_commands_settings_and_choices(line: str, choices: str, tmp_path: Path) -> None:
    code, out, err, seconds = run(tmp_path, "-sc", "query=bash", COMP_LINE=line)
    assert (code, err) == (0, "") and out.startswith(choices)
    assert seconds < MOST_SECONDS


def test_completion_is_installed_as_hydra_does(tmp_path: Path) -> None:
    code, out, _, _ = run(tmp_path, "-sc", "install=bash")
    assert code == 0 and out.rstrip().endswith("complete -o nospace -o default -F hydra_bash_completion splitlearn")
