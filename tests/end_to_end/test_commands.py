"""The real commands, as a user types them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from io import BufferedReader
from pathlib import Path

import pytest

from splitlearn.embedded import resolve_model
from tests.tiny_models import write_tiny_checkpoint

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["trainer.max_steps=2", "data.max_train_blocks=16", "data.max_val_blocks=8"]


COMMANDS = ("train", "plan", "verify", "generate", "evaluate", "attack", "export", "report", "serve", "prepare", "certificates")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "HYDRA_FULL_ERROR": "0", **environment}
    return subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True)


def train(*overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(ROOT / "train.py", *overrides, cwd=cwd)


def summaries(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("summary.json"))]


def test_train_shows_loading_and_leaves_its_results(tmp_path: Path) -> None:
    done = train(*SHORT, "split=thirds", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Loading component: bottom (layers 0-2 + embedding)" in done.stdout
    assert "embedded:qwen2_tiny cut at 3 / 5" in done.stdout
    assert "memory, epoch 1" in done.stdout
    assert "INFO" not in done.stdout + done.stderr, "what Lightning looked for concerns nobody"
    assert not list(tmp_path.rglob("*.log")), "nothing was logged"
    (summary,) = summaries(tmp_path)
    assert summary["status"] == "completed"
    folder = Path(str(summary["folder"]))
    assert folder.parent.parent == tmp_path / "outputs"
    assert (folder / "parts" / "trunk.pt").is_file()
    assert (folder / ".hydra" / "overrides.yaml").is_file()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["split.point_1=9"], "refused: split_point_1 is 9, but the model has 8 decoder layers: choose 0 to 8"),
        (["split.point_1=true"], "refused: split_point_1 is True (bool); it must be a whole number of layers"),
        (["split.point_1=one"], "refused: split_point_1 is 'one' (str); it must be a whole number of layers"),
        (["device_map=cuda:9"], "error: device_map is 'cuda:9', but this machine has"),
        (["device_map={middle: cpu}"], "error: device_map names 'middle'; the parts are bottom, trunk, top"),
        (["model.type=gpt2"], "error: model_type is 'gpt2', but"),
        (["model.name_or_path=./absent"], "error: the model folder ./absent does not exist"),
        (["data=text_files", "data.source=absent.txt"], "error: the data file absent.txt does not exist"),
        (["data=text_files"], "error: data.source is not set; add data.source=... to the command"),
        (["ckpt_path=absent.ckpt"], "error: ckpt_path is absent.ckpt, which does not exist"),
    ],
)
def test_bad_input_is_one_sentence(overrides: list[str], sentence: str, tmp_path: Path) -> None:
    done = train(*overrides, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(sentence), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Loading component" not in done.stdout
    written = {path.name for path in tmp_path.rglob("*") if path.is_file() and ".hydra" not in path.parts}
    assert written <= {"summary.json", ".run.lock"}, "nothing half-written"


def test_a_damaged_checkpoint_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = shutil.copytree(resolve_model("embedded:qwen2_tiny"), tmp_path / "model")
    shard = sorted(folder.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-10])
    done = train("model.name_or_path=model", *SHORT, cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: model/{shard.name} is damaged" in done.stderr
    assert "Loading component" not in done.stdout


def test_text_files_and_a_frozen_trunk(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("\n\n".join(f"Paragraph {index} about splitting models." for index in range(200)))
    overrides = ["data=text_files", "data.source=notes.txt", "data.block_size=32", "optimizer.parts.trunk.train=false"]
    done = train(*overrides, "trainer.max_steps=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (summary,) = summaries(tmp_path)
    assert [part["num_trainable"] > 0 for part in summary["parts"]] == [True, False, True]  # type: ignore[attr-defined]


@pytest.mark.parametrize("debug", ["fast_dev_run", "overfit"])
def test_debug(debug: str, tmp_path: Path) -> None:
    epochs = [] if debug == "fast_dev_run" else ["trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1"]
    done = train(f"debug={debug}", *epochs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("parts"))


def test_tensorboard(tmp_path: Path) -> None:
    done = train(*SHORT, "logger=csv_tensorboard", "save_parts=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("events.out.tfevents*")) and list(tmp_path.rglob("metrics.csv"))


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    first = train(*SHORT, "trainer.max_epochs=1", "hydra.run.dir=first", "trainer.max_steps=-1", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    overrides = [*SHORT, "trainer.max_epochs=2", "trainer.max_steps=-1", "ckpt_path=first/checkpoints/last.ckpt"]
    second = train(*overrides, "hydra.run.dir=second", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    steps = [
        json.loads((tmp_path / name / "summary.json").read_text())["metrics"]["train_steps"] for name in ("first", "second")
    ]
    # Those of the second are of the whole run.
    assert steps == [2, 4]


def read_until(process: subprocess.Popen[bytes], wanted: bytes) -> None:
    assert isinstance(process.stdout, BufferedReader)
    printed = b""
    while wanted not in printed:
        piece = process.stdout.read1(4096)
        assert piece, printed
        printed += piece


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "data",
    [
        [],
        ["data=python_questions", "data.num_workers=2", "peft=lora", "peft.settings.lora_dropout=0.1"],
        ["data=text_files", "data.source=notes.txt", "data.streaming=true", "data.val_rows=40", "data.block_size=16"],
    ],
    ids=["text", "questions with two workers and dropout", "streamed"],
)
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(data: list[str], number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("\n\n".join(f"Paragraph {index} about splitting models." for index in range(900)))
    settings = ["data.max_train_blocks=160", "data.max_val_blocks=8", "trainer.max_steps=20", "trainer.log_every_n_steps=1"]
    settings += [*data, "save_parts=false", "verbose=false", "callbacks.last_checkpoint.every_n_train_steps=2"]
    whole = train(*settings, "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-u", ROOT / "train.py", *settings, "hydra.run.dir=stopped", "callbacks.progress.interval_s=0"]
    process = subprocess.Popen(list(map(str, command)), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    read_until(process, b"batch 5 of ")
    process.send_signal(number)
    process.communicate(timeout=60)
    path = tmp_path / "stopped" / "summary.json"
    summary = json.loads(path.read_text())
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert summary["status"] == "interrupted" and "ckpt_path=last" in summary["reason"]
    else:
        assert process.returncode == -signal.SIGKILL
        assert summary["status"] == "running", "it could not say that it ends"
    again = train(*settings, "hydra.run.dir=stopped", "ckpt_path=last", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    metrics = [json.loads((tmp_path / name / "summary.json").read_text())["metrics"] for name in ("whole", "stopped")]
    assert metrics[0]["val_loss_after"] == metrics[1]["val_loss_after"]
    assert metrics[0]["train_steps"] == metrics[1]["train_steps"] == 20
    with (tmp_path / "stopped" / "metrics" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 0 < sum(bool(row["train_loss_step"]) for row in rows) < 20, "it went on, and did not begin anew"


@pytest.mark.parametrize("which", ["last", "best"])
def test_there_is_nothing_to_go_on_from(which: str, tmp_path: Path) -> None:
    done = train(*SHORT, f"ckpt_path={which}", "hydra.run.dir=fresh", cwd=tmp_path)
    assert done.returncode == 2
    folder = tmp_path / "fresh" / "checkpoints"
    assert done.stderr.startswith(f"error: ckpt_path is {which}, but {folder} holds none; name the run's folder with")


def test_prepare(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "single", "llama", max_shard_size="1GB")
    command = ["-m", "splitlearn", "prepare", "source=single", "out=sharded", "max_shard_size=100KB"]
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote sharded: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sharded", "single"]
    again = run(*command, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "error: out=sharded exists already; name a new folder\n"
    absent = run("-m", "splitlearn", "prepare", "source=absent", "out=other", cwd=tmp_path)
    assert absent.returncode == 2 and absent.stderr == "error: absent does not exist\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sharded", "single"]


def test_the_command_line_explains_itself(tmp_path: Path) -> None:
    for arguments in ([], ["--help"]):
        done = run("-m", "splitlearn", *arguments, cwd=tmp_path)
        assert done.returncode == 0
        assert all(f"{command} " in done.stdout for command in COMMANDS)
    done = run("-m", "splitlearn", "fly", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: 'fly' is no command; there are {', '.join(COMMANDS)}\n"


def test_verify_shows_that_the_parts_are_the_model_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run("-m", "splitlearn", "verify", "split.point_1=3", "split.point_2=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" equal ") == 6
    assert "embedded:qwen2_tiny cut at 3 / 3, tolerance 0" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("split.point_1=9", "refused: split_point_1 is 9, but the model has 8 decoder layers: choose 0 to 8\n"),
        ("tolerance=-1", "error: tolerance is -1; give a number of at least 0\n"),
        ("gradients=maybe", "error: gradients is maybe; give true or false\n"),
        ("tokens=1017", "error: 1017 tokens and 8 new ones exceed the model's 1024 positions; give fewer\n"),
    ],
)
def test_verify_tells_a_bad_setting_in_one_sentence(setting: str, sentence: str, tmp_path: Path) -> None:
    done = run("-m", "splitlearn", "verify", setting, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, sentence)
