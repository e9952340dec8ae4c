from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_load_prints_every_loader(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "load.py", "--shape", "tiny", "--runs", "1", "--folder", tmp_path / "model"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 8, "a heading and a row for each loader"
    assert "1.00x |" in rows[1]
