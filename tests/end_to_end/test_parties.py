"""`serve` in a process of its own, and a run that trains with it over mutual TLS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.app import TrainResult, compose, train
from splitlearn.certificates import make_certificates
from splitlearn.parties import PartyError
from tests.run_comparison import assert_alike, content

SHORT = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=16", "data.max_val_blocks=4", "trainer.max_steps=6"]
SHORT += ["trainer.enable_progress_bar=false", "verbose=false", "logger=none", "trainer.gradient_clip_val=0.5"]
SHORT += ["placement.patience.reconnect=2", "placement.patience.connect=20"]


@dataclass
class Server:
    """A server's process and its address."""

    process: subprocess.Popen[str]
    address: str
    folder: Path

    def end(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output


def start(folder: Path, *overrides: str) -> Server:
    folder.mkdir(exist_ok=True)
    ready = folder / "ready"
    arguments = ["port=0", f"certificates={folder.parent}/keys/server", f"ready_file={ready}", "verbose=false", "threads=1"]
    command = [sys.executable, "-m", "splitlearn", "serve", *arguments, *overrides]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "HYDRA_FULL_ERROR": "0"}, **pipes)
    until = time.monotonic() + 120
    while not ready.is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert ready.is_file(), process.communicate(timeout=10)[0]
    return Server(process, ready.read_text().strip(), folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parties")
    make_certificates(folder / "keys", ["server", "alice", "bob"], ["localhost"])
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    server = start(place / "server", f"folder={place}/kept", "clients=[alice]")
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def run(place: Path, name: str, *overrides: str, server: Server | None = None, client: str = "alice") -> TrainResult:
    own = [] if server is None else [f"placement.server={server.address}", f"placement.certificates={place}/keys/{client}"]
    return train(compose(*SHORT, *own, *overrides), folder=place / name)


def test_a_run_with_a_server_is_that_of_one_process(place: Path, server: Server) -> None:
    one, two = run(place, "one"), run(place, "two", server=server)
    record = assert_alike(one, two)
    # Each process has loaded its own parts.
    assert [part["part"] for part in record.loading or []] == ["bottom", "top"]
    figures = record.server or {}
    assert [part["part"] for part in figures["loading"]["parts"]] == ["trunk"]
    by_cut = record.traffic or {}
    counted = sum(
        count
        for cuts in (by_cut, by_cut["evaluation"])
        for cut in ("cut_1", "cut_2")
        for name, count in cuts[cut].items()
        if not name.endswith("per_step")
    )
    sent = figures["sent_bytes"] + figures["received_bytes"] - figures["state_bytes"]
    assert counted < sent < 1.2 * counted


def test_a_new_run_is_refused_by_a_part_that_another_run_has_trained(place: Path, server: Server) -> None:
    with pytest.raises(PartyError, match=r"the trunk has taken 6 steps in another run: go on with that run from its last"):
        run(place, "three", server=server)


def test_a_run_is_taken_up_where_it_ended(place: Path, server: Server) -> None:
    longer = [
        run(place, f"longer {name}", f"ckpt_path='{place}/{name}/checkpoints/last.ckpt'", "trainer.max_steps=9", server=at)
        for name, at in (("one", None), ("two", server))
    ]
    expected, found = (content(result)["state_dict"] for result in longer)
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())


def test_another_client_or_plan_is_refused(place: Path, server: Server) -> None:
    with pytest.raises(PartyError, match="bob is none of the clients of this server"):
        run(place, "four", server=server, client="bob")
    with pytest.raises(PartyError, match=r"split\.point_1 is 2 at the server, but 3 with alice"):
        run(place, "five", "split=points", "split.point_1=3", "split.point_2=6", server=server)


def test_a_signal_ends_the_server_and_keeps_the_part(place: Path, server: Server) -> None:
    status, output = server.end()
    assert status == 143
    assert output.splitlines()[-2:] == [
        "interrupted by SIGTERM",
        f"the trunk has taken 9 steps; its state is in {place}/kept/trunk.ckpt",
    ]
    kept = torch.load(place / "kept" / "trunk.ckpt", weights_only=True)
    assert kept["num_steps"] == 9
    assert "model.layers.2.mlp.up_proj.weight" in kept["state_dict"]
    assert json.loads((place / "kept" / "summary.json").read_text())["num_steps"] == 9
    with pytest.raises(ConnectionError, match="cannot be reached"):
        run(place, "six", "placement.patience.connect=1", server=server)
