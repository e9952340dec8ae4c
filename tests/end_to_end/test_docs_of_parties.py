"""The commands of docs/parties.md that need a server are run beside one."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from splitlearn.certificates import make_certificates
from tests.faults.commands import Command, start

pytestmark = pytest.mark.end_to_end

PAGE = Path(__file__).resolve().parents[2] / "docs" / "parties.md"
TRAIN = "python train.py "
# Words by which a command of the page is found that is run here.
RUN = {
    "first server": "serve part=trunk certificates=trial/server folder=trunk",
    "first client": "placement=u_shaped placement.server=localhost:7443",
    "evaluate": "evaluate run=outputs/DATE/TIME server=localhost:7443",
    "generate": "generate run=outputs/DATE/TIME server=localhost:7443",
    "server of two parts": "serve 'part=[trunk,top]'",
    "client without a top": "placement=vanilla",
    "server of a trunk": "serve part=trunk port=7443",
    "server of a top": "serve part=top port=7444",
    "client of two servers": "placement=linear",
    "generate with two servers": "'server={server_1: localhost:7443",
    "sequential": "order=sequential steps=200",
    "concurrent": "order=concurrent steps=100",
    "alice": "placement.certificates=trial/alice data.partition=iid data.num_shares=2 data.share=1",
    "bob": "placement.certificates=trial/bob data.partition=iid data.num_shares=2 data.share=2",
}
# Commands that are not run here, and why.
NOT_RUN = {
    "certificates out=trial": "test_docs.py runs it",
    "certificates out=certificates": "test_docs.py runs it",
    "placement=simulated_clients": "tests/app/test_simulating.py has fewer steps",
    "placement=splitfed_v1 ": "needs Flower; make train-splitfed runs it",
}
SHORT = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=16", "data.max_val_blocks=4", "trainer.max_steps=2"]
SHORT += ["trainer.enable_progress_bar=false", "logger=none"]


def documented() -> list[str]:
    """Return all commands of the page that begin with ``python``, each in one line."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```(?:text|bash)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+", " ", line).strip() for block in blocks for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith("python ")))


def command_with(words: str) -> str:
    """Return the only command of the page that contains some words."""
    found = [command for command in documented() if words in command]
    assert len(found) == 1, f"{len(found)} commands have {words!r}"
    return found[0]


@dataclass
class Trial:
    """A folder with certificates, and free ports in the place of those that the page names.

    Attributes:
        folder: where commands run, each in a folder of its own.
    """

    folder: Path
    _ports: dict[str, int] = field(default_factory=dict)
    _servers: list[Command] = field(default_factory=list)

    def serve(self, *names: str, **changes: str) -> None:
        """Start servers, and wait until they listen."""
        commands = [command_with(RUN[name]) for name in names]
        for number, command in enumerate(commands):
            ready = self.folder / f"ready-{number}"
            ready.unlink(missing_ok=True)
            port = [] if "port=" in command else [f"port={self._port('7443')}"]
            self._servers.append(self._start(f"server-{number}", command, *port, f"ready_file={ready}", **changes))
        for number, server in enumerate(self._servers):
            while not (self.folder / f"ready-{number}").is_file():
                assert server.process.is_alive(), server.text
                server.process.join(0.02)

    def run(self, *names: str, **changes: str) -> list[str]:
        """Run clients at once, and return what they say."""
        started = []
        for number, command in enumerate(command_with(RUN[name]) for name in names):
            short = [*SHORT, f"hydra.run.dir={self.folder}/run-{number}"] if command.startswith(TRAIN) else []
            started.append(self._start(f"client-{number}", command, *short, **changes))
        assert [client.end() for client in started] == [0] * len(started), "\n".join(client.text for client in started)
        return [client.text for client in started]

    def end(self) -> None:
        """End the servers as Ctrl-C does."""
        for server in self._servers:
            os.kill(server.number, signal.SIGINT)
        for server in self._servers:
            server.end()
        self._servers.clear()

    def _port(self, documented: str) -> int:
        if documented not in self._ports:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                self._ports[documented] = free.getsockname()[1]
        return self._ports[documented]

    def _start(self, name: str, command: str, *further: str, **changes: str) -> Command:
        typed = re.sub(r"\b744[34]\b", lambda match: str(self._port(match[0])), command)
        for old, new in changes.items():
            typed = re.sub(rf"{old}=\S+", f"{old}={new}", typed)
        place = self.folder / name
        place.mkdir(exist_ok=True)
        if not (place / "trial").exists():
            (place / "trial").symlink_to(self.folder / "trial")
        arguments = shlex.split(typed.replace(TRAIN, "train ").replace("python -m splitlearn ", ""))
        return start(place, *arguments, *further)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    parties = ["server", "trunk", "top", "alice", "bob"]
    make_certificates(tmp_path / "trial", parties, {name: ["localhost"] for name in parties[:3]})
    made = Trial(tmp_path)
    yield made
    made.end()


def test_the_first_trial_is_measured_and_generates_with_its_server(trial: Trial) -> None:
    trial.serve("first server")
    trial.run("first client")
    run = {"run": f"{trial.folder}/run-0"}
    assert "loss" in trial.run("evaluate", **run)[0]
    assert trial.run("generate", **run)[0].strip()


def test_one_server_with_trunk_and_top(trial: Trial) -> None:
    trial.serve("server of two parts")
    trial.run("client without a top")


def test_two_servers_and_a_generation_with_both(trial: Trial) -> None:
    trial.serve("server of a trunk", "server of a top")
    trial.run("client of two servers")
    assert trial.run("generate with two servers", run=f"{trial.folder}/run-0")[0].strip()


@pytest.mark.parametrize(("order", "steps"), [("sequential", "4"), ("concurrent", "2")])
def test_two_clients(trial: Trial, order: str, steps: str) -> None:
    trial.serve(order, steps=steps)
    trial.run("alice", "bob")


def test_every_command_is_run_or_has_a_reason() -> None:
    assert {command_with(words) for words in [*RUN.values(), *NOT_RUN]} == set(documented())
