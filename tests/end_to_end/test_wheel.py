"""An installed wheel works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from splitlearn.app import conf_folder

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_configuration_travels_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in conf_folder().rglob("*.yaml"):
        assert f"splitlearn/conf/{path.relative_to(conf_folder()).as_posix()}" in names
    assert "hydra_plugins/splitlearn_launcher/__init__.py" in names, "Hydra looks for plug-ins in that package"
    assert "hydra_plugins/__init__.py" not in names, "other plug-ins share the package"
    for path in (ROOT / "splitlearn" / "report" / "templates").iterdir():
        assert f"splitlearn/report/templates/{path.name}" in names
    assert not [name for name in names if name.startswith(("tests", "notebooks", "benchmarks"))]


def test_it_trains_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    install: list[str | Path] = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import splitlearn; print(splitlearn.__file__)"]
    found = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(site), "the wheel is tested, not the checkout"
    short = ["trainer.max_steps=2", "data.max_train_blocks=16", "data.max_val_blocks=8"]
    command = [sys.executable, "-m", "splitlearn", "train", *short]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(empty.rglob("summary.json"))
