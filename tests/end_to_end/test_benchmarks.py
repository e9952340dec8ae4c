from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_load_prints_every_loader(tmp_path: Path) -> None:
    command: list[str | Path] = [
        sys.executable,
        BENCHMARKS / "load.py",
        "--shape",
        "tiny",
        "--runs",
        "1",
        "--folder",
        tmp_path / "model",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 14, "a heading and a row for each loader"
    assert "1.00x |" in rows[1]


def test_scale_prints_every_shape() -> None:
    command: list[str | Path] = [sys.executable, BENCHMARKS / "scale.py", "--shapes", "tiny", "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 1, "a heading and the shape"
    assert "| 1.000x |" in rows[1], "the part's bytes are read, no others"


def test_train_prints_every_runner() -> None:
    command: list[str | Path] = [sys.executable, BENCHMARKS / "train.py", "--model", "embedded:qwen2_tiny", "--cut", "2", "6"]
    done = subprocess.run([*command, "--blocks", "6", "--runs", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 8, "a heading and a row for each runner"
    assert any("| 1.00x |" in row for row in rows[1:3])


def test_generate_prints_both_models() -> None:
    command: list[str | Path] = [
        sys.executable,
        BENCHMARKS / "generate.py",
        "--model",
        "embedded:qwen2_tiny",
        "--cut",
        "2",
        "6",
        "--runs",
        "1",
    ]
    done = subprocess.run([*command, "--tokens", "8", "--prompt", "8"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2, "a heading, transformers and the parts"
    assert rows[1].endswith("| 1.00x |")
