from __future__ import annotations

import json
import sys

import pytest

from splitlearn.cli import plan
from splitlearn.planning import fit


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["plan", *arguments])
    plan.main()


def test_it_prints_parts_memory_and_traffic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "split.point_1=2", "split.point_2=6", "rows=2", "tokens=64")
    printed = capsys.readouterr().out
    for expected in ("embedded:qwen2_tiny cut at 2 / 6, float32", "layers 2-5", "full fine-tuning", "2 x 64 tokens"):
        assert expected in printed
    assert "cut 1 │ 64.0 KiB smashed data" in printed, "2 x 64 tokens of 128 float32 numbers"
    assert "bottom (client)" in printed and "trunk (server)" in printed


def test_another_placement_sends_other_bytes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "placement=vanilla", "rows=2", "tokens=64", "json=true")
    cost = json.loads(capsys.readouterr().out)
    assert cost["parties"] == {"bottom": "client", "trunk": "server", "top": "server"}
    labels = 2 * 64 * 8
    assert cost["traffic"]["cut_1"]["activation_uplink_bytes"] == 64 * 1024 + labels
    assert not any(cost["traffic"]["cut_2"].values())
    run(monkeypatch, "placement=one_party")
    printed = capsys.readouterr().out
    assert printed.count("nothing") == 4 and "(owner)" not in printed


def test_it_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "split=auto", "json=true")
    cost = json.loads(capsys.readouterr().out)
    assert [part["part"] for part in cost["parts"]] == ["bottom", "trunk", "top"]
    assert 0 < cost["split_point_1"] < cost["split_point_2"] < 8


def test_what_does_not_fit_ends_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fit, "device_memory", lambda device: 10)
    run(monkeypatch, "must_fit=load")
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "must_fit=full")
    assert stopped.value.code == 2
    assert "refused: full fine-tuning of embedded:qwen2_tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rows=0", "rows is 0; give a whole number of at least 1"),
        ("tokens=1.5", "tokens is 1.5"),
        ("must_fit=everything", "must_fit is 'everything'; choose one of load, lora, full, or null"),
        ("split.point_1=9", "split_point_1 is 9"),
        ("device=cuda", "this machine has no GPU"),
    ],
)
def test_bad_settings(setting: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, setting, "device_map=null")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
