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
from contextlib import ExitStack, suppress
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
    settings = _DEFAULTS | {name.lstrip("+"): value for name, _, value in (text.partition("=") for text in sys.argv[2:])}
    if settings["placement"] not in ORDERS:
        raise SystemExit(f"placement is {settings['placement']}; take one of {', '.join(ORDERS)}")
    folder.mkdir(parents=True)
    make_certificates(folder / "certificates", ["server", *CLIENTS], ["localhost", "127.0.0.1"])
    processes = with_flower(folder, settings)
    simulate(folder / "simulation", settings)
    difference = largest_difference(folder)
    runs = ", ".join(f"{name} {processes[name]} ({folder / name})" for name in ("server", *CLIENTS))
    print(
        f"{settings['placement']}: {runs} and Flower {processes['flower']} ({folder / 'flower'}): the largest difference of a "
        f"weight or a held-out loss from the simulation is {difference:g}"
    )
    raise SystemExit(not difference <= TOLERANCE)


def with_flower(folder: Path, settings: Mapping[str, str]) -> dict[str, int]:
    """Train with a process for each party, and Flower's beside them, and return the numbers of the processes."""
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
        flower = start_flower(folder, stack)
        run_rounds(folder, clients)
        return {"server": server.pid, **{name: client.pid for name, client in clients.items()}, "flower": flower.pid}


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


def start_flower(folder: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    """Start Flower's SuperLink, and a SuperNode for each client, with the same certificates as the server of the trunk.

    Args:
        folder: of the whole trial.
        stack: ends the processes.

    Returns:
        The SuperLink, which starts the process that averages.
    """
    home, certificates = folder / "flower", folder / "certificates"
    home.mkdir()
    link, *nodes = free_ports(1 + len(CLIENTS))
    authority = certificates / "server" / "authority.pem"
    connection = f'address = "localhost:{link}"\nroot-certificates = "{authority}"\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "local"\n\n[superlink.local]\n{connection}')
    own = [f"--ssl-certfile={certificates / 'server' / 'certificate.pem'}", f"--ssl-ca-certfile={authority}"]
    own += [f"--ssl-keyfile={certificates / 'server' / 'certificate.key'}", "--disable-runtime-dependency-installation"]
    superlink = start_service(folder, stack, "flower-superlink", "--host=localhost", f"--port={link}", *own)
    wait_for_port(link, superlink)
    for name, port in zip(CLIENTS, nodes, strict=True):
        chosen = [f"--superlink=localhost:{link}", f"--root-certificates={certificates / name / 'authority.pem'}"]
        told = f'--node-config=folder="{folder / "rounds" / name}"'
        start_service(folder, stack, "flower-supernode", f"--port={port}", *chosen, told)
    return superlink


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of Flower's processes, which would otherwise tell its makers what it is used for."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    return {**os.environ, **quiet, "FLWR_HOME": str(folder / "flower"), "PATH": path}


def start_service(folder: Path, stack: ExitStack, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a process of Flower, which ends with those that it starts itself."""
    with (folder / f"{name}.log").open("ab") as log:
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        process = subprocess.Popen([name, *arguments], **output, env=environment(folder), start_new_session=True)
    stack.callback(end, process, leads_group=True)
    return process


def run_rounds(folder: Path, clients: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Have Flower do the rounds, and return once the clients' runs are done.

    Raises:
        SystemExit: one has failed.
    """
    rounds = subprocess.Popen(["flwr", "run", str(_APP), "local", "--stream"], env=environment(folder))
    try:
        wait_for_all({"Flower's run": rounds, **clients}, folder)
    finally:
        rounds.terminate()


def wait_for_all(processes: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    """Return once all processes are done; those beside the first have so many seconds more than it.

    Raises:
        SystemExit: one has failed, or does not end.
    """
    first = next(iter(processes.values()))
    until = float("inf")
    while running := [name for name, process in processes.items() if process.poll() is None]:
        refuse_failed(processes, folder)
        if first.poll() is not None:
            until = min(until, time.monotonic() + _END_SECONDS)
        if time.monotonic() > until:
            raise SystemExit(f"{' and '.join(running)} should have ended by now; the files named .log in {folder} say why")
        time.sleep(0.2)
    refuse_failed(processes, folder)


def refuse_failed(processes: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    """Refuse processes of which one has failed.

    Raises:
        SystemExit: it has.
    """
    for name, process in processes.items():
        if process.poll():
            raise SystemExit(f"{name} has failed; the files named .log in {folder} say why")


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


def end(process: subprocess.Popen[bytes], leads_group: bool = False) -> None:
    """End a process.

    Args:
        process: which.
        leads_group: whether it leads a group of processes, which it has started and which are to end, too.
    """
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if leads_group:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


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
