"""A run's codecs are those of its evaluation and generation too, and its record says what a network would cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitlearn.app import compose, evaluate, generate, plan, train
from splitlearn.boundary import CallKind, TrafficMeter
from splitlearn.runs import read_summary

CODED = ["boundary=int4", "boundary.backward=bf16", "link.bandwidth_mbps=100", "link.rtt_ms=20"]
SHORT = ["trainer.max_steps=3", "data.max_train_blocks=16", "data.max_val_blocks=4", "trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(compose(*SHORT, *CODED, "verbose=false", "save_parts=true"), folder=folder)
    return folder


def test_evaluation_and_generation_use_the_runs_codecs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meters: list[TrafficMeter] = []
    begin = TrafficMeter.__init__

    def note(meter: TrafficMeter) -> None:
        begin(meter)
        meters.append(meter)

    monkeypatch.setattr(TrafficMeter, "__init__", note)
    summary = read_summary(run)
    assert summary is not None and summary.metrics is not None
    measured = evaluate(compose(f"run={run}", config_name="evaluate"))
    assert measured["loss"] == pytest.approx(summary.metrics["val_loss_after"], abs=1e-6)
    sent = sum(meter.totals(CallKind.EVALUATE)["cut_2"]["activation_downlink_bytes"] for meter in meters)
    # 128 numbers of 4 bits, and 4 scales.
    assert sent and sent % (64 + 8) == 0 and sent < measured["tokens"] * 128
    meters.clear()
    generate(compose(f"run={run}", "prompt=for each", "max_new_tokens=3", config_name="generate"))
    sent = sum(meter.totals(CallKind.GENERATE)["cut_2"]["activation_downlink_bytes"] for meter in meters)
    assert sent and sent % (64 + 8) == 0


def test_the_record_and_the_plan_say_what_a_network_would_cost(run: Path) -> None:
    summary = read_summary(run)
    assert summary is not None and summary.link is not None and summary.traffic is not None and summary.phases is not None
    sent = sum(
        count for cut in ("cut_1", "cut_2") for name, count in summary.traffic[cut].items() if name.endswith("_per_step")
    )
    assert summary.link["bytes"] == sent and summary.link["trips"] == 4
    assert summary.link["link_s"] == pytest.approx(8 * sent / 1e8 + 4 * 0.01)
    assert summary.link["compute_s"] == summary.phases["step"]["median_s"]
    rows, tokens = 8, 128
    planned = plan(compose(*CODED, f"rows={rows}", f"tokens={tokens}", config_name="plan"))
    assert planned.traffic["cut_1"] == {
        "activation_uplink_bytes": rows * tokens * (64 + 8),
        "activation_downlink_bytes": 0,
        "gradient_uplink_bytes": 0,
        "gradient_downlink_bytes": rows * tokens * 256,
    }
    assert planned.codecs["cut_2"] == {"forward": "int4 (group_size=32)", "backward": "bf16"}
    assert planned.link is not None and planned.link["trips"] == 4 and 0 < planned.link["waiting_share"] < 1
    assert planned.link["step_s"] == planned.link["compute_s"] + planned.link["link_s"]
    assert plan(compose(config_name="plan")).link is None
    with pytest.raises(ValueError, match=r"^boundary.forward.group_size is 0; give how many numbers share a scale"):
        plan(compose("boundary=int4", "boundary.forward.group_size=0", config_name="plan"))
