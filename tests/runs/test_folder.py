"""The folder of a run is made and tried out before anything else happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from splitlearn.runs import open_run_folder


def test_it_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = open_run_folder(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b" and not list(folder.iterdir())
    assert open_run_folder(str(folder)) == folder


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_it_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"cannot be written \(Permission denied\); choose another with hydra.run.dir"):
        open_run_folder(tmp_path)


def test_a_file_is_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written \(File exists\)"):
        open_run_folder(tmp_path / "file")
