"""Sweeps over Hydra's own launchers: runs are named, recorded and skipped as over this project's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["data.batch_size=2", "data.block_size=16", "data.max_train_blocks=8", "data.max_val_blocks=2", "save_parts=false"]
GRID = [*SHORT, "trainer.max_epochs=1", "split.point_2=6", "split.point_1=1,7"]


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), "-m", f"hydra.sweep.dir={folder}", *GRID, *overrides]
    environment = {**os.environ, "HYDRA_FULL_ERROR": "0"}
    return subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=250)


@pytest.mark.parametrize(
    "launcher",
    [["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"], ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]],
    ids=["joblib", "submitit_local"],
)
def test_a_sweep_goes_over_another_launcher(launcher: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = sweep(folder, *launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    records = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/summary.json")}
    assert {name: record["status"] for name, record in records.items()} == {
        "split.point_1=1": "completed",
        "split.point_1=7": "refused",
    }
    assert [records[name]["overrides"] for name in sorted(records)] == [["split.point_1=1"], ["split.point_1=7"]]
    assert {record["sweep"] for record in records.values()} == {str(folder)}
    before = {path: path.stat().st_mtime_ns for path in folder.glob("split*/summary.json")}

    # Whichever launcher ran them, they are done.
    again = sweep(folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.splitlines()[-1] == "2 runs: 2 skipped (done before)"
    assert {path: path.stat().st_mtime_ns for path in before} == before
