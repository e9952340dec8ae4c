"""The container file, the Slurm script and Flower's app: their syntax, and that what they call is there. None is used."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from splitlearn.app import compose

ROOT = Path(__file__).resolve().parents[1]
CONTAINER, SLURM = ROOT / "deploy" / "Containerfile", ROOT / "deploy" / "slurm.sh"
KNOWN = {"ARG", "CMD", "COMMENT", "COPY", "ENTRYPOINT", "EXPOSE", "FROM", "RUN", "STOPSIGNAL", "USER", "WORKDIR"}
# Stands for python in a job: it writes down how it is called, and makes what the other job waits for.
PYTHON = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
given = dict(text.split("=", 1) for text in sys.argv[3:] if "=" in text)
if "ready_file" in given and not os.environ.get("FAILS"):
    open(given["ready_file"], "w").write("node:7443\\n")
"""
# Runs a job at once, in the background, as the cluster would on another node.
SBATCH = """#!/usr/bin/env bash
while [ "${1#--}" != "$1" ]; do
  case "$1" in --output=*) output="${1#--output=}" ;; --time=*) echo "$1" >> "$CALLS.options" ;; esac
  shift
done
echo "$(( $(cat "$CALLS.job" 2> /dev/null || echo 0) + 1 ))" > "$CALLS.job"
bash "$@" > "$output" 2>&1 < /dev/null &
echo "$(cat "$CALLS.job");cluster"
"""
SCANCEL = """#!/usr/bin/env bash
echo "$@" > "$CALLS.cancelled"
"""


def container() -> DockerfileParser:
    return DockerfileParser(fileobj=io.BytesIO(CONTAINER.read_bytes()))


def test_the_container_file_is_one() -> None:
    parser = container()
    structure = parser.structure
    assert {entry["instruction"] for entry in structure} == KNOWN
    assert parser.baseimage == "python:3.11-slim"
    values = {entry["instruction"]: entry["value"] for entry in structure}
    entry, command = json.loads(values["ENTRYPOINT"]), json.loads(values["CMD"])
    assert entry == ["python", "-m", "splitlearn"]
    assert compose(*command[1:], config_name=command[0]).part == "trunk"


def test_the_container_gets_all_that_the_package_is_built_from() -> None:
    copied = [entry["value"].split()[:-1] for entry in container().structure if entry["instruction"] == "COPY"]
    names = {name for sources in copied for name in sources}
    assert all((ROOT / name).exists() for name in names)
    assert names >= {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "conf", "splitlearn", "hydra_plugins"}


def test_the_commands_that_the_container_file_names_are_there() -> None:
    text = CONTAINER.read_text().replace("\\\n#", "")
    calls = [line.split("splitlearn ", 1)[1].split() for line in text.splitlines() if line.startswith("#   docker run")]
    calls = [call[call.index("splitlearn") + 1 :] if "splitlearn" in call else call for call in calls]
    assert [call[0] for call in calls] == ["serve", "train"]
    for call in calls:
        compose(*(text for text in call[1:] if not text.startswith("hydra.")), config_name=call[0])


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a cluster of one machine, whose python only writes down how it is called."""
    (tmp_path / "bin").mkdir()
    for name, text in {"python": PYTHON, "sbatch": SBATCH, "scancel": SCANCEL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "CALLS": str(tmp_path / "calls"), "SBATCH": "--time=5", "CLIENT": "seed=3 tags=[a]"}


def submit(folder: Path, cluster: dict[str, str], *settings: str) -> subprocess.CompletedProcess[str]:
    # The jobs hold the pipes of this call until they end.
    command: list[str | Path] = ["bash", SLURM, folder, *settings]
    return subprocess.run(command, env=cluster, capture_output=True, text=True, timeout=60)


def await_file(path: Path) -> str:
    command: list[str | Path] = [
        "bash",
        "-c",
        'for _ in $(seq 300); do [ -s "$0" ] && exec cat "$0"; sleep 0.1; done; exit 1',
        path,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_two_jobs_that_find_each_other(tmp_path: Path, cluster: dict[str, str]) -> None:
    done = submit(tmp_path / "shared" / "trial", cluster, "split.point_1=1", "peft=lora")
    assert done.returncode == 0, done.stderr
    assert "the server is job 1, the client job 2" in done.stdout
    assert await_file(tmp_path / "calls.cancelled") == "--batch --signal=TERM 1\n"
    assert (tmp_path / "calls.options").read_text() == "--time=5\n" * 2
    calls = {call[2]: call[3:] for call in map(json.loads, (tmp_path / "calls").read_text().splitlines())}
    assert list(calls) == ["certificates", "serve", "train"]
    served, trained = (
        compose(*(text for text in calls[name] if not text.startswith("hydra.")), config_name=name)
        for name in ("serve", "train")
    )
    assert (trained.placement.server, trained.seed, trained.tags) == ("node:7443", 3, ["a"])
    assert served.split.point_1 == trained.split.point_1 == 1
    assert served.peft.method == trained.peft.method == "lora"
    assert Path(served.certificates).parent == Path(trained.placement.certificates).parent


def test_a_server_that_does_not_come_ends_both_jobs(tmp_path: Path, cluster: dict[str, str]) -> None:
    folder = tmp_path / "trial"
    assert submit(folder, {**cluster, "FAILS": "1", "WAIT_SECONDS": "1"}).returncode == 0
    assert await_file(tmp_path / "calls.cancelled") == "--batch --signal=TERM 1\n"
    assert "the server (job 1) was not ready within 1 s" in (folder / "client.log").read_text()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, cluster: dict[str, str]) -> None:
    assert submit(tmp_path, cluster).returncode != 0
    assert not (tmp_path / "calls").exists()
    usage = subprocess.run(["bash", SLURM], env=cluster, capture_output=True, text=True)
    assert (usage.returncode, usage.stderr) == (2, "usage: bash deploy/slurm.sh FOLDER [NAME=VALUE ...]\n")


def test_flowers_app_names_what_is_there() -> None:
    app = tomllib.loads((ROOT / "deploy" / "flower" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    for place in app["components"].values():
        module, _, name = place.partition(":")
        tree = ast.parse(Path(ROOT, *module.split(".")).with_suffix(".py").read_text())
        assigned = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}  # type: ignore[attr-defined]
        assert name in assigned
    # Every setting of the app is read by one of its two sides.
    sources = "".join((ROOT / "splitlearn" / "rounds" / f"{side}_app.py").read_text() for side in ("client", "server"))
    assert all(f'config["{name}"]' in sources for name in app["config"])
