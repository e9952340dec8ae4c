from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from splitlearn.runs import other_setting, write_hydra_files


def write(folder: Path, *overrides: str) -> None:
    hydra = OmegaConf.create({"overrides": {"task": list(overrides)}})
    write_hydra_files(folder, OmegaConf.create({"seed": 0}), hydra)


def test_a_run_of_other_settings_is_known(tmp_path: Path) -> None:
    write(tmp_path, "split.point_1=2", "trainer.max_steps=2")
    assert other_setting(tmp_path, ["trainer.max_steps=2", "++split.point_1=2"]) is None
    assert (
        other_setting(tmp_path, ["split.point_1=2", "trainer.max_steps=3"])
        == "trainer.max_steps=2 then and trainer.max_steps=3 now"
    )
    assert other_setting(tmp_path, ["split.point_1=2"]) == "trainer.max_steps=2 then and trainer.max_steps not given now"


def test_settings_that_change_no_figure_are_of_no_account(tmp_path: Path) -> None:
    write(tmp_path, "sweep=cuts", "verbose=false", "logger.wandb.offline=true")
    assert other_setting(tmp_path, ["overwrite=true", "logger=csv", "tags=[a]"]) is None


@pytest.mark.parametrize("content", [None, b"", b"a: 1", b"\xff", b"- [", b"[" * 5000])
def test_a_run_whose_overrides_cannot_be_read_is_taken_for_the_same(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / ".hydra").mkdir()
        (tmp_path / ".hydra" / "overrides.yaml").write_bytes(content)
    assert other_setting(tmp_path, ["seed=1"]) is None
