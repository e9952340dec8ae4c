"""Two parties on one machine, from nothing: certificates, a server that holds the trunk, and a client that trains with it.

``python benchmarks/train_parties.py FOLDER [NAME=VALUE ...]`` also trains in one process, and fails if any loss differs.
Settings are those of ``train``; those of ``model``, ``split``, ``peft``, ``optimizer`` and ``boundary`` go to the server, too.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

from splitlearn.certificates import make_certificates

# Groups of settings that both parties must have alike.
SHARED = ("model", "split", "peft", "optimizer", "boundary", "gradient_checkpointing")
_FIGURES = ("train_loss_step", "train_loss", "val_loss", "gradient_norm")
_START_SECONDS = 300.0


def main() -> None:
    """Run both, compare them, and say in one line how they differ."""
    folder, settings = Path(sys.argv[1]).resolve(), sys.argv[2:]
    folder.mkdir(parents=True)
    make_certificates(folder / "certificates", ["server", "client"], ["localhost"])
    server = start_server(folder, [text for text in settings if text.lstrip("+~").split("=")[0].split(".")[0] in SHARED])
    try:
        ready = folder / "server" / "ready"
        own = [f"placement.server={ready.read_text().strip()}", f"placement.certificates={folder / 'certificates' / 'client'}"]
        client = train(folder / "client", [*settings, *own])
    finally:
        server.terminate()
        server.wait()
    train(folder / "one_process", settings)
    difference = largest_difference(folder / "client", folder / "one_process")
    print(
        f"server {server.pid} ({folder / 'server'}) and client {client} ({folder / 'client'}): the largest difference of a "
        f"loss from one process is {difference}"
    )
    raise SystemExit(difference != 0.0)


def start_server(folder: Path, settings: list[str]) -> subprocess.Popen[bytes]:
    """Start a server, and return once clients may come."""
    home = folder / "server"
    home.mkdir()
    own = [f"certificates={folder / 'certificates' / 'server'}", f"ready_file={home / 'ready'}", f"folder={home}"]
    server = subprocess.Popen([sys.executable, "-m", "splitlearn", "serve", "port=0", *own, *settings], cwd=home)
    until = time.monotonic() + _START_SECONDS
    while not (home / "ready").is_file():
        if server.poll() is not None or time.monotonic() > until:
            server.kill()
            raise SystemExit("the server did not start; it has said why")
        time.sleep(0.1)
    return server


def train(folder: Path, settings: list[str]) -> int:
    """Train in a process of its own, and return its number."""
    command = [sys.executable, "-m", "splitlearn", "train", "placement=u_shaped", *settings, f"hydra.run.dir={folder}"]
    process = subprocess.Popen(command, env={**os.environ, "HYDRA_FULL_ERROR": "0"})
    if process.wait():
        raise SystemExit(process.returncode)
    return process.pid


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference of a logged loss or norm; infinity if other things were logged."""
    rows = [losses(folder) for folder in (one, other)]
    if rows[0].keys() != rows[1].keys() or not rows[0]:
        return float("inf")
    return max(abs(value - rows[1][key]) for key, value in rows[0].items())


def losses(folder: Path, names: tuple[str, ...] = _FIGURES) -> dict[tuple[int, str], float]:
    """Return what a run has logged of some names, by line of its metrics.csv and name."""
    (file,) = folder.rglob("metrics.csv")
    with file.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return {(number, name): float(row[name]) for number, row in enumerate(rows) for name in names if row.get(name)}


if __name__ == "__main__":
    main()
