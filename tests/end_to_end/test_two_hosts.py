"""Two network namespaces as two hosts with a cable between them: `serve` at one, `train` at the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.app import compose, train
from splitlearn.certificates import make_certificates
from splitlearn.runs import read_summary
from splitlearn.training.callbacks import LAST
from tests.end_to_end.test_parties import SHORT

pytestmark = pytest.mark.end_to_end

SERVER, CLIENT = "10.213.77.1", "10.213.77.2"


@dataclass(frozen=True)
class Host:
    """A network namespace, and its end of the cable."""

    name: str
    cable: str

    def command(self, *arguments: str | Path) -> list[str]:
        """Return a command of splitlearn that runs on this host, in a process whose number is the command's."""
        return ["ip", "netns", "exec", self.name, sys.executable, "-m", "splitlearn", *map(str, arguments)]

    def bytes_over_the_cable(self) -> tuple[int, int]:
        """Return how many bytes the kernel has received and sent here, headers included."""
        (link,) = json.loads(ip("-n", self.name, "-s", "-j", "link", "show", self.cable))
        figures = link.get("stats64") or link["stats"]
        return figures["rx"]["bytes"], figures["tx"]["bytes"]


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """The server's host and the client's; skips where this machine allows no namespaces."""
    if shutil.which("ip") is None:
        pytest.skip("two hosts are network namespaces, and this machine lacks the program ip (iproute2)")
    number = os.getpid()
    made = [Host(f"splitlearn-{number}-{end}", f"sl{end}{number}"[:15]) for end in ("s", "c")]
    with ExitStack() as stack:
        try:
            for host in made:
                ip("netns", "add", host.name)
                stack.callback(subprocess.run, ["ip", "netns", "delete", host.name], check=False)
            ends = ["name", made[0].cable, "netns", made[0].name, "type", "veth"]
            ip("link", "add", *ends, "peer", "name", made[1].cable, "netns", made[1].name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"two hosts are network namespaces, and this machine allows none: {error.stderr.strip()}")
        for host, address in zip(made, (SERVER, CLIENT), strict=True):
            ip("-n", host.name, "address", "add", f"{address}/24", "dev", host.cable)
            ip("-n", host.name, "link", "set", host.cable, "up")
        yield made[0], made[1]


def test_two_hosts_take_the_steps_of_one_process(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    make_certificates(tmp_path / "keys", ["server", "alice"], [SERVER])
    at_server, at_client = hosts
    ready, output = tmp_path / "ready", tmp_path / "server.log"
    environment = {**os.environ, "HYDRA_FULL_ERROR": "0"}
    serve = ["serve", f"host={SERVER}", f"certificates={tmp_path}/keys/server", f"ready_file={ready}", "threads=1"]
    with output.open("w") as log:
        server = subprocess.Popen(at_server.command(*serve), cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while not ready.is_file() and server.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert ready.is_file(), output.read_text()
        assert ready.read_text().strip() == f"{SERVER}:7443"
        own = [f"placement.server={SERVER}:7443", f"placement.certificates={tmp_path}/keys/alice"]
        command = at_client.command("train", *SHORT, *own, f"hydra.run.dir={tmp_path}/two")
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        received, sent = at_client.bytes_over_the_cable()
    finally:
        server.terminate()
        try:
            server.wait(60)
        finally:
            server.kill()
    train(compose(*SHORT), folder=tmp_path / "one")
    expected, found = content(tmp_path / "one"), content(tmp_path / "two")
    assert expected.keys() == found.keys()
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())
    summary = read_summary(tmp_path / "two")
    assert summary is not None
    figures = summary.server or {}
    # All that the parties say to each other goes over the cable. TLS, HTTP/2 and TCP add headers.
    assert figures["sent_bytes"] < sent < 1.1 * figures["sent_bytes"] + 50_000
    assert figures["received_bytes"] < received < 1.1 * figures["received_bytes"] + 50_000


def content(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoints" / LAST, weights_only=True)["state_dict"]
    return state
