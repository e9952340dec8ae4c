"""What `make train-splitfed` runs, without its processes."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def train_splitfed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("train_splitfed")


def write_splitfed(folder: Path, **changed: Any) -> None:
    """Write what `train_splitfed` compares: all weights and losses are 1, unless they are changed."""
    one = {name: changed.get(name, 1.0) for name in ("trunk", "client_1", "client_2", "simulated", "loss")}
    tensors = {name: torch.full((2,), float(value)) for name, value in one.items()}
    for name in ("simulation/checkpoints", "server", "client_1/checkpoints", "client_2/checkpoints"):
        (folder / name).mkdir(parents=True)
    ends = {"head": tensors["simulated"]}
    whole = {"state_dict": {**ends, "layer": torch.ones(2)}, "clients": {"client_2": {"state_dict": ends}}}
    torch.save(whole, folder / "simulation" / "checkpoints" / "last.ckpt")
    torch.save({"state_dict": {"layer": tensors["trunk"]}}, folder / "server" / "trunk.ckpt")
    for name in ("client_1", "client_2"):
        # The trunk in a client's checkpoint may be of another moment.
        own = {"head": tensors[name], "layer": torch.zeros(2)}
        torch.save({"state_dict": own}, folder / name / "checkpoints" / "last.ckpt")
        (folder / name / "metrics.csv").write_text(f"step,val_loss\n0,9.0\n1,{one['loss']}\n")
    losses = "step,val_loss/client_1,val_loss/client_2\n0,8.0,8.0\n1,1.0,1.0\n"
    (folder / "simulation" / "metrics.csv").write_text(losses)


@pytest.mark.parametrize("changed", [None, "trunk", "client_1", "client_2", "loss"])
def test_train_splitfed_sees_what_differs(train_splitfed: Any, tmp_path: Path, changed: str | None) -> None:
    write_splitfed(tmp_path, **({} if changed is None else {changed: 1.5}))
    assert train_splitfed.largest_difference(tmp_path) == (0.0 if changed is None else 0.5)


def test_train_splitfed_has_flower_tell_nobody(train_splitfed: Any, tmp_path: Path) -> None:
    settings = train_splitfed.environment(tmp_path)
    assert (settings["FLWR_TELEMETRY_ENABLED"], settings["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")
    # Nothing is read from or left in the user's own folder.
    assert settings["FLWR_HOME"] == str(tmp_path / "flower")


def test_train_splitfed_waits_for_all_and_names_what_fails(
    train_splitfed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["bash", "-c", command])

    train_splitfed.wait_for_all({"rounds": start("true"), "client": start("sleep 0.1")}, tmp_path)
    # One that fails last, and one whose failure the others would wait for.
    for first, second in (("true", "sleep 0.1; exit 3"), ("exec sleep 60", "exit 3")):
        processes = {"rounds": start(first), "client": start(second)}
        with pytest.raises(SystemExit, match=r"client has failed; the files named \.log in"):
            train_splitfed.wait_for_all(processes, tmp_path)
        train_splitfed.end(processes["rounds"])
    monkeypatch.setattr(train_splitfed, "_END_SECONDS", 0.1)
    processes = {"rounds": start("true"), "client": start("exec sleep 60")}
    with pytest.raises(SystemExit, match="client should have ended by now"):
        train_splitfed.wait_for_all(processes, tmp_path)
    train_splitfed.end(processes["client"])


def test_train_splitfed_takes_nothing_for_the_same(train_splitfed: Any) -> None:
    assert train_splitfed.difference({}, {}, set()) == float("inf")
    assert train_splitfed.difference({"a": torch.ones(1)}, {"b": torch.ones(1)}, {"a"}) == float("inf")
