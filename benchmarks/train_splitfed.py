"""SplitFed on one machine, from nothing: a server that holds the trunk, two clients, and Flower, which averages their parts.

``python benchmarks/train_splitfed.py FOLDER [NAME=VALUE ...]`` also trains with both clients simulated in one process, and
fails if any weight or held-out loss differs by more than 1e-6. Settings are those of ``train``; ``placement=splitfed_v2`` has
the clients take turns. It needs the extra ``splitfed``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from train_parties import SHARED, losses, start_server

from splitlearn.certificates import make_certificates

CLIENTS = ("client_1", "client_2")
ORDERS = {"splitfed_v1": "concurrent", "splitfed_v2": "sequential"}
TOLERANCE = 1e-6
_APP = Path(__file__).resolve().parents[1] / "deploy" / "flower"
_DEFAULTS = {"placement": "splitfed_v1", "placement.average_every": "5", "trainer.max_steps": "15", "seed": "0"}
_START_SECONDS, _END_SECONDS, _GRACE_SECONDS = 120.0, 300.0, 30.0


def main() -> None:
    """Train with processes and in one process, compare them, and say in one line how they differ."""
    folder = Path(sys.argv[1]).resolve()
    settings = _DEFAULTS | dict(text.lstrip("+").split("=", 1) for text in sys.argv[2:])
    if settings["placement"] not in ORDERS:
        raise SystemExit(f"placement is {settings['placement']}; take one of {', '.join(ORDERS)}")
    folder.mkdir(parents=True)
    make_certificates(folder / "certificates", ["server", *CLIENTS], ["localhost", "127.0.0.1"])
    with_flower(folder, settings)
    simulate(folder / "simulation", settings)
    difference = largest_difference(folder)
    print(
        f"{settings['placement']}, the server in {folder / 'server'}, {' and '.join(CLIENTS)} beside it: the largest "
        f"difference of a weight or a held-out loss from the simulation is {difference:g}"
    )
    raise SystemExit(not difference <= TOLERANCE)


def with_flower(folder: Path, settings: Mapping[str, str]) -> None:
    """Train with a process for each party, and Flower's beside them."""
    order, steps = ORDERS[settings["placement"]], int(settings["trainer.max_steps"])
    shared = [f"{name}={value}" for name, value in settings.items() if name.split(".")[0] in (*SHARED, "seed")]
    several = [f"clients=[{','.join(CLIENTS)}]", f"order={order}"]
    several.append(f"steps={steps * (len(CLIENTS) if order == 'sequential' else 1)}")
    with ExitStack() as stack:
        server = start_server(folder, [*shared, *several])
        stack.callback(end, server)
        address = (folder / "server" / "ready").read_text().strip()
        clients = {}
        for number, name in enumerate(CLIENTS, 1):
            clients[name] = start_client(folder, name, number, address, settings)
            stack.callback(end, clients[name])
        for process in start_flower(folder):
            stack.callback(end, process)
        run_rounds(folder, clients)


def start_client(folder: Path, name: str, number: int, address: str, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a client's run, which waits for its rounds."""
    own = {
        "placement.server": address,
        "placement.certificates": folder / "certificates" / name,
        "placement.clients": f"[{','.join(CLIENTS)}]",
        "placement.rounds.folder": folder / "rounds" / name,
        "placement.rounds.wait": 600,
        "data.partition": "iid",
        "data.share": number,
        "hydra.run.dir": folder / name,
    }
    return start_run(own | dict(settings), name, folder)


def start_run(settings: Mapping[str, Any], name: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a run, whose output goes into a file of its name."""
    command = [sys.executable, "-m", "splitlearn", "train", *(f"{key}={value}" for key, value in settings.items())]
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def start_flower(folder: Path) -> list[subprocess.Popen[bytes]]:
    """Start Flower's SuperLink, and a SuperNode for each client, with the same certificates as the server of the trunk."""
    home, certificates = folder / "flower", folder / "certificates"
    home.mkdir()
    link, *nodes = free_ports(1 + len(CLIENTS))
    # It sends its makers what it is used for, and asks them for updates, unless it is told not to.
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    os.environ |= {"FLWR_HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    authority = certificates / "server" / "authority.pem"
    connection = f'address = "localhost:{link}"\nroot-certificates = "{authority}"\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "local"\n\n[superlink.local]\n{connection}')
    own = [f"--ssl-certfile={certificates / 'server' / 'certificate.pem'}", f"--ssl-ca-certfile={authority}"]
    own += [f"--ssl-keyfile={certificates / 'server' / 'certificate.key'}", "--disable-runtime-dependency-installation"]
    processes = [start_service(folder, "flower-superlink", "--host=localhost", f"--port={link}", *own)]
    wait_for_port(link, processes[0])
    for name, port in zip(CLIENTS, nodes, strict=True):
        chosen = [f"--superlink=localhost:{link}", f"--root-certificates={certificates / name / 'authority.pem'}"]
        told = f'--node-config=folder="{folder / "rounds" / name}"'
        processes.append(start_service(folder, "flower-supernode", f"--port={port}", *chosen, told))
    return processes


def start_service(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a process of Flower, with those that it starts itself in a group of its own."""
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen([name, *arguments], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def run_rounds(folder: Path, clients: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Have Flower do the rounds, and return once the clients' runs are done.

    Raises:
        SystemExit: one has failed.
    """
    subprocess.run(["flwr", "run", str(_APP), "local", "--stream"], check=True)
    until = time.monotonic() + _END_SECONDS
    for name, client in clients.items():
        try:
            status = client.wait(max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            raise SystemExit(f"Flower's run has ended, and {name} has not: see {folder / name}.log") from None
        if status:
            raise SystemExit(f"{name} has failed: see {folder / name}.log")


def simulate(folder: Path, settings: Mapping[str, str]) -> None:
    """Train with all clients in one process."""
    steps = int(settings["trainer.max_steps"]) * (len(CLIENTS) if ORDERS[settings["placement"]] == "sequential" else 1)
    own = {"placement.clients": f"[{','.join(CLIENTS)}]", "data.partition": "iid", "hydra.run.dir": folder}
    process = start_run(own | {**settings, "trainer.max_steps": steps}, folder.name, folder.parent)
    if process.wait():
        raise SystemExit(f"the simulation has failed: see {folder}.log")


def largest_difference(folder: Path) -> float:
    """Return the largest difference of a weight or of the last held-out loss; infinity if other things are there."""
    kept = torch.load(folder / "simulation" / "checkpoints" / "last.ckpt", weights_only=True)
    trunk = torch.load(folder / "server" / "trunk.ckpt", weights_only=True)["state_dict"]
    first, *others = CLIENTS
    ends = {first: {name: tensor for name, tensor in kept["state_dict"].items() if name not in trunk}}
    ends |= {name: kept["clients"][name]["state_dict"] for name in others}
    differences = [difference(trunk, kept["state_dict"], trunk.keys())]
    for name, tensors in ends.items():
        own = torch.load(folder / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        differences.append(difference(own, tensors, own.keys() - trunk.keys()))
        differences.append(abs(last_loss(folder / name, "val_loss") - last_loss(folder / "simulation", f"val_loss/{name}")))
    return max(differences)


def difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], names: Any) -> float:
    """Return the largest difference of tensors of some names; infinity if there are none or one lacks some."""
    if not names or not names <= other.keys():
        return float("inf")
    return max(float((one[name] - other[name]).abs().max()) for name in names)


def last_loss(folder: Path, name: str) -> float:
    """Return the last value of a metric of a run."""
    *_, last = losses(folder, (name,)).values()
    return last


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, and those that it has started if it leads a group of its own."""
    leads = process.poll() is None and os.getpgid(process.pid) == process.pid
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if leads:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("localhost", 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in sockets]


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once somebody listens at a port.

    Raises:
        SystemExit: the process that should has ended, or the time is over.
    """
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("localhost", port), timeout=1.0).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("Flower's SuperLink did not start; flower-superlink.log says why") from None
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    main()
