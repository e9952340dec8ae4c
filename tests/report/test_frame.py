"""Records of runs become rows, whatever release wrote them, and whatever is in them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from splitlearn.report import COLUMNS, collect_runs, read_runs
from tests.report.written_runs import summary, write_run, write_sweep


def test_a_sweep(tmp_path: Path) -> None:
    frame = read_runs(write_sweep(tmp_path))
    assert list(frame.columns) == list(COLUMNS) and len(frame) == 8
    assert frame["status"].value_counts().to_dict() == {"completed": 6, "refused": 1, "failed": 1}
    best = frame.iloc[0]
    assert best["run"] == "split.point_1=3,split.point_2=7,seed=0" and best["loss"] == 3.25
    assert (best["split_point_1"], best["split_point_2"], best["seed"]) == (3, 7, 0)
    assert best["client_gib"] == 2.0 and best["server_gib"] == 2.0
    assert best["planned_client_gib"] == pytest.approx(2.02) and best["peak_rss_gib"] == 0.6
    # Two payloads, both ways, over two cuts.
    assert best["bytes_per_step"] == 8 * 4096 and best["uplink_bytes_per_step"] == 4 * 4096
    assert best["step_s"] == pytest.approx(0.09) and best["step_p99_s"] == pytest.approx(0.135)
    assert best["settings"] == "" and best["sweep"] is None
    assert best["overrides"] == "split.point_1=3 split.point_2=7 seed=0"
    refused = frame[frame["status"] == "refused"].iloc[0]
    assert refused["reason"] == "split points 7 / 6 do not cut the model" and pd.isna(refused["loss"])


def test_a_single_run_and_several_folders(tmp_path: Path) -> None:
    one = write_run(tmp_path / "outputs" / "day" / "time", summary(1, 6))
    write_run(tmp_path / "a" / "0", summary(1, 6))
    write_run(tmp_path / "b" / "0", summary(2, 6))
    assert read_runs(one)["run"].tolist() == ["time"]
    assert read_runs(tmp_path / "outputs")["run"].tolist() == ["day/time"]
    frame = read_runs(tmp_path / "a", tmp_path / "b", tmp_path / "a" / "0", one)
    assert sorted(frame["run"]) == ["a/0", "b/0", "time"]
    assert frame["folder"].tolist()[0] == str(tmp_path / "b" / "0")


def test_broken_records_are_named_and_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "whole", summary(1, 6))
    broken = write_run(tmp_path / "broken", summary(1, 6))
    (broken / "summary.json").write_text('{"status": "comp')
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.yaml").write_text("seed: 0\n")
    write_run(tmp_path / "newer", summary(1, 6, version=99))
    write_run(tmp_path / "list", [1])
    runs = collect_runs([tmp_path])
    assert runs.frame["run"].tolist() == ["whole"]
    assert sorted(runs.left_out) == ["broken", "half", "list", "newer"]
    assert "is not JSON" in runs.left_out["broken"] and "it has no summary.json" in runs.left_out["half"]
    assert "version 99" in runs.left_out["newer"]
    with pytest.warns(UserWarning, match=r"left out, since their records cannot be read: broken: .*; and 1 more"):
        assert len(read_runs(tmp_path)) == 1


def test_folders_without_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no run in .*; name the folder of a sweep or of a run"):
        read_runs(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent is no folder"):
        read_runs(tmp_path / "absent")


def test_records_of_older_releases(tmp_path: Path) -> None:
    record = summary(1, 6)
    for name in ("version", "memory", "phases", "overrides", "seed"):
        del record[name]
    run = write_run(tmp_path / "0", record, typed=["split.point_1=1", "seed=3", "optimizer.learning_rate=0.1"])
    row = read_runs(run).iloc[0]
    assert row["seed"] == 3 and row["settings"] == "optimizer.learning_rate=0.1"
    assert pd.isna(row["client_gib"])
    # The mean of a step, since there is no median: 1,000 tokens at 100 a second in 20 steps.
    assert row["step_s"] == pytest.approx(0.5)
    other = write_run(tmp_path / "1", record)
    (other / "config.yaml").write_text("model: {}\nseed: 7\n")
    assert read_runs(other).iloc[0]["seed"] == 7


def test_figures_of_the_wrong_kind_are_not_known(tmp_path: Path) -> None:
    record = summary(1, 6)
    record["metrics"] |= {"train_steps": 10**30}
    record["attacks"] = {"headline": {"attack": ["<b>"], "cut": 1, "token_recovery": "<b>1</b>"}}
    record["memory"] = {"parties": {"client": [1], "server": "2"}}
    record["traffic"] = {"cut_1": {"activation_uplink_bytes_per_step": None}, "cut_2": 3}
    record["phases"] = {"step": "fast"}
    row = read_runs(write_run(tmp_path / "0", record)).iloc[0]
    for name in ("train_steps", "token_recovery", "client_gib", "server_gib", "bytes_per_step", "step_p95_s"):
        assert pd.isna(row[name]), name
    assert row["best_attack"] == "cut 1"
    record["attacks"] = {"headline": 7}
    row = read_runs(write_run(tmp_path / "1", record)).iloc[0]
    assert pd.isna(row["token_recovery"]) and row["best_attack"] is None


def test_what_the_best_attack_recovers(tmp_path: Path) -> None:
    record = summary(1, 6)
    headline = {"attack": "mlp", "cut": 1, "direction": "forward", "token_recovery": 0.75, "rouge_l": 0.5}
    record["attacks"] = {"headline": headline, "attacks": [headline]}
    row = read_runs(write_run(tmp_path / "0", record)).iloc[0]
    assert (row["token_recovery"], row["rouge_l"], row["best_attack"]) == (0.75, 0.5, "mlp cut 1 forward")


def test_the_time_over_a_network(tmp_path: Path) -> None:
    link = {"bandwidth_mbps": 100, "rtt_ms": 20, "link_s": 0.06, "compute_s": 0.02, "step_s": 0.08, "waiting_share": 0.75}
    row = read_runs(write_run(tmp_path / "0", summary(1, 6, link=link))).iloc[0]
    assert (row["link_step_s"], row["waiting_share"]) == (0.08, 0.75)
    for other in (None, {"step_s": "fast"}):
        row = read_runs(write_run(tmp_path / "1", summary(1, 6, link=other))).iloc[0]
        assert pd.isna(row["link_step_s"]) and pd.isna(row["waiting_share"])


def test_not_a_number_is_not_known(tmp_path: Path) -> None:
    text = json.dumps(summary(1, 6)).replace('"val_loss_after": 3.75', '"val_loss_after": NaN')
    assert "NaN" in text
    run = write_run(tmp_path / "0", {})
    (run / "summary.json").write_text(text)
    assert pd.isna(read_runs(run).iloc[0]["loss"])


def test_text_is_one_printable_line(tmp_path: Path) -> None:
    record = summary(1, 6, status="failed", reason="a\x1b[31mred\nb\u202e" + "x" * 1000, tags=["\x07", 1])
    row = read_runs(write_run(tmp_path / "0", record)).iloc[0]
    assert row["reason"].startswith("a?[31mred b?xxx") and row["reason"].endswith("...") and row["tags"] == "?, 1"


def test_links_are_not_followed(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep" / "0", summary(1, 6))
    write_run(tmp_path / "elsewhere" / "1", summary(2, 6))
    (tmp_path / "sweep" / "again").symlink_to(tmp_path / "sweep")
    (tmp_path / "sweep" / "other").symlink_to(tmp_path / "elsewhere")
    assert read_runs(tmp_path / "sweep")["run"].tolist() == ["0"]
