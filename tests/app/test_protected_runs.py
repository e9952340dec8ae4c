"""Runs with noise, reuse and defences, from their settings to their record, and what is done with them afterwards."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from splitlearn.app import compose, evaluate, generate, train
from splitlearn.boundary.privacy import Mechanism, epsilon_of

SHORT = [
    "trainer.enable_progress_bar=false",
    "verbose=false",
    "save_parts=false",
    "peft=lora",
    "data.max_train_rows=4",
    "data.max_val_rows=2",
    "data.max_val_blocks=4",
    "data.max_train_blocks=8",
    "data.batch_size=4",
    "data.block_size=32",
]


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_epsilon_stands_in_the_record_and_in_the_log(tmp_path: Path) -> None:
    train(compose(*SHORT, "boundary=gaussian_clipped", "trainer.max_epochs=2", "trainer.log_every_n_steps=1"), tmp_path)
    privacy = summary_of(tmp_path)["privacy"]
    releases = {each["name"]: each["releases"] for each in privacy["train"]["mechanisms"]}
    assert releases == {"cut_1/activation": 2, "cut_2/gradient": 2}, "one for each epoch, cut and direction"
    expected, _ = epsilon_of([Mechanism("", 1.0, 0.01, 1e-5, 4)])
    assert privacy["train"]["epsilon"] == pytest.approx(expected) and privacy["train"]["noise_is_secret"]
    # Held-out examples are sent before training and after each epoch.
    assert privacy["held_out"]["mechanisms"][0]["releases"] == 3
    with (tmp_path / "metrics" / "metrics.csv").open() as file:
        logged = [float(row["privacy_epsilon"]) for row in csv.DictReader(file) if row.get("privacy_epsilon")]
    assert logged[-1] == pytest.approx(expected, rel=1e-5) and logged[0] < logged[-1]


def test_reuse_sends_the_first_epoch_alone(tmp_path: Path) -> None:
    ways = [f"boundary.{way}.threshold=inf" for way in ("forward", "backward")]
    train(compose(*SHORT, "boundary=reuse", *ways, "trainer.max_epochs=2", "callbacks=[]"), tmp_path)
    sent = summary_of(tmp_path)["traffic"]["cut_2"]
    bitmaps = 2 * 8 * 32 // 8
    for name in ("activation_downlink_bytes", "gradient_uplink_bytes"):
        assert sent[name] == 8 * 32 * 128 * 4 + bitmaps


def test_defences_are_a_list_that_evaluation_and_generation_know(tmp_path: Path) -> None:
    defended = ["defence=[nopeek,mid,dchi]", "defence.dchi.epsilon=1e6", "trainer.max_epochs=1", "callbacks=[last_checkpoint]"]
    train(compose(*SHORT, *defended), tmp_path)
    summary = summary_of(tmp_path)
    assert len(summary["defence"]["mid"]["width"]) == 128
    measured = {}
    for name, more in {"run": [], "checkpoint": ["ckpt=last"]}.items():
        measured[name] = evaluate(compose(f"run={tmp_path}", *more, config_name="evaluate"))["loss"]
    assert measured["run"] == pytest.approx(summary["metrics"]["val_loss_after"], abs=0.3)
    assert measured["run"] == pytest.approx(measured["checkpoint"], abs=0.3)
    assert all(math.isfinite(loss) for loss in measured.values())
    asked = [f"run={tmp_path}", "prompt=for each of", "max_new_tokens=4"]
    assert generate(compose(*asked, config_name="generate")) == generate(compose(*asked, config_name="generate"))
    summary["defence"]["mid"]["width"][0] = "x"
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"the widths of the bottleneck are not 128 numbers above 0"):
        generate(compose(*asked, config_name="generate"))
