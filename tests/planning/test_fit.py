from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from splitlearn.app import compose, plan, train
from splitlearn.cut import PartTraining
from splitlearn.planning import CutCost, DoesNotFitError, check_fit, fit, least_methods
from splitlearn.planning.fit import device_memory, needed_by_device

ALL_FULL = dict.fromkeys(("bottom", "trunk", "top"), "full")
ALL_FROZEN = dict.fromkeys(("bottom", "trunk", "top"), "load")


@pytest.fixture
def cost(tiny_checkpoint: Callable[..., Path]) -> CutCost:
    overrides = ["model=pretrained", f"model.name_or_path={tiny_checkpoint('llama')}", "split.point_1=2", "split.point_2=4"]
    return plan(compose(*overrides, config_name="plan"))


def test_memory_is_that_of_the_machine_or_of_its_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(fit, "_CGROUP_LIMITS", (tmp_path / "memory.max", tmp_path / "absent"))
    assert device_memory("cpu") == psutil.virtual_memory().total
    (tmp_path / "memory.max").write_text("12345\n")
    assert device_memory("cpu") == 12345


def test_parts_on_one_device_add_up(cost: CutCost) -> None:
    assert needed_by_device(cost, ALL_FULL) == {"cpu": sum(part.needs["full"].own_bytes for part in cost.parts)}
    assert needed_by_device(cost, ALL_FROZEN) == {"cpu": 0}, "mapped weights need not be there"


def test_what_fits_is_let_through(cost: CutCost, monkeypatch: pytest.MonkeyPatch) -> None:
    check_fit(cost, ALL_FULL)
    needed = needed_by_device(cost, ALL_FULL)["cpu"]
    monkeypatch.setattr(fit, "device_memory", lambda device: needed)
    check_fit(cost, ALL_FULL)


def test_what_does_not_fit_is_refused_with_ways_out(cost: CutCost, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = needed_by_device(cost, ALL_FULL)["cpu"]
    monkeypatch.setattr(fit, "device_memory", lambda device: needed - 1)
    with pytest.raises(
        DoesNotFitError, match=r"full fine-tuning of .* cut at 2 / 4 in float32 needs .* on cpu, which has"
    ) as told:
        check_fit(cost, ALL_FULL)
    for way in (
        "with LoRA it needs",
        "all frozen it needs 0",
        "with trunk frozen it needs",
        "bfloat16 halves it",
        "device_map",
    ):
        assert way in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("weights_stay_unread")
def test_a_run_that_cannot_fit_is_refused_before_weights_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fit, "device_memory", lambda device: 10**6)
    with pytest.raises(DoesNotFitError, match=r"full fine-tuning of .* needs .* on cpu"):
        train(compose("trainer.enable_progress_bar=false"), folder=tmp_path / "run")
    assert '"refused"' in (tmp_path / "run" / "summary.json").read_text()


def test_what_is_not_trained_in_full_needs_at_least_to_be_loaded() -> None:
    trained = {"bottom": PartTraining.FULL, "trunk": PartTraining.ADAPTERS, "top": PartTraining.NORMS}
    assert least_methods(trained) == {"bottom": "full", "trunk": "load", "top": "load"}
