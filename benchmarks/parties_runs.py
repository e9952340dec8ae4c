"""Runs of the benchmark of parties: the ways to train and to generate, each in processes of its own."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slow_link import SlowLink

from splitlearn.runs import RunSummary, read_summary

# Groups of settings that both parties must have alike.
_SHARED = ("model", "split", "peft", "optimizer", "boundary", "gradient_checkpointing")
# Nothing but steps: no held-out loss, no checkpoints.
_PLAIN = ("data.val_fraction=0", "save_parts=false", "~callbacks.checkpoint", "~callbacks.last_checkpoint", "logger=none")
_QUIET = ("verbose=false", "trainer.enable_progress_bar=false")
_START_SECONDS = 300.0
_GIB = 2**30


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        label: as the table has it.
        microbatches: into how many a batch is divided; 0 trains in one process.
        is_encrypted: whether the parties talk over mutual TLS.
        boundary: the codec of what crosses.
        is_far: whether the link between them is slow.
        near: the name of the case that differs by the link alone.
    """

    label: str
    microbatches: int = 0
    is_encrypted: bool = True
    boundary: str = "exact"
    is_far: bool = False
    near: str = ""


CASES = {
    "one": Case("one process"),
    "clear-1": Case("in the clear", 1, is_encrypted=False),
    "clear-2": Case("in the clear", 2, is_encrypted=False),
    "clear-4": Case("in the clear", 4, is_encrypted=False),
    "tls-1": Case("mutual TLS", 1),
    "tls-2": Case("mutual TLS", 2),
    "tls-4": Case("mutual TLS", 4),
    "int8-1": Case("mutual TLS, int8", 1, boundary="int8"),
    "int8-4": Case("mutual TLS, int8", 4, boundary="int8"),
    "far-1": Case("mutual TLS, slow link", 1, is_far=True, near="tls-1"),
    "far-4": Case("mutual TLS, slow link", 4, is_far=True, near="tls-4"),
    "far-int8-1": Case("mutual TLS, int8, slow link", 1, boundary="int8", is_far=True, near="int8-1"),
    "far-int8-4": Case("mutual TLS, int8, slow link", 4, boundary="int8", is_far=True, near="int8-4"),
}
GENERATIONS = {
    "generate-one": Case("one process"),
    "generate-tls": Case("mutual TLS", 1),
    "generate-far": Case("mutual TLS, slow link", 1, is_far=True),
}


def run(case: Case, folder: Path, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train in one way, and return the figures of the run.

    Args:
        case: the way.
        folder: for the runs, with certificates in ``keys``.
        name: of this run.
        args: those of the command.
    """
    settings = [*args.settings, *_PLAIN, *_QUIET, f"boundary={case.boundary}", f"trainer.max_steps={args.steps}"]
    settings += [f"data.batch_size={args.rows}", f"data.block_size={args.tokens}", "placement=u_shaped"]
    settings += [f"data.max_train_blocks={args.rows * args.steps}", f"hydra.run.dir={folder / name}"]
    settings += [f"link.bandwidth_mbps={args.mbps}", f"link.rtt_ms={args.rtt}"]
    with reached(case, folder, name, [*args.settings, f"boundary={case.boundary}"], args) as own:
        command = [sys.executable, "-m", "splitlearn", "train", *settings, *own]
        output_of(command, name, 1 if case.microbatches else 2)
    summary = read_summary(folder / name)
    if summary is None or summary.phases is None:
        raise SystemExit(f"{name} has left no figures of its steps")
    return figures_of(summary)


def generate(case: Case, folder: Path, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Generate in one way, and return ``tokens_per_s``."""
    with reached(case, folder, name, args.settings, args) as own:
        return child("generate", [*args.settings, *_QUIET, *own], args, 1 if case.microbatches else 2)


def child(task: str, settings: Sequence[str], args: argparse.Namespace, num_threads: int) -> dict[str, Any]:
    """Measure something in a process of its own, by a function of ``parties_measured.py``."""
    sizes = ["--rows", str(args.rows), "--tokens", str(args.tokens), "--new-tokens", str(args.new_tokens)]
    command = [sys.executable, str(Path(__file__).with_name("parties_measured.py")), task, *sizes, "--settings", *settings]
    figures: dict[str, Any] = json.loads(output_of(command, task, num_threads).strip().splitlines()[-1])
    return figures


def output_of(command: Sequence[str], name: str, num_threads: int) -> str:
    """Run a command, and return what it has printed."""
    done = subprocess.run(command, env=environment(num_threads), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return done.stdout


@contextmanager
def reached(case: Case, folder: Path, name: str, settings: Sequence[str], args: argparse.Namespace) -> Iterator[list[str]]:
    """Run the server of a case, if it has one, while the block runs, and yield the settings by which a client reaches it."""
    if not case.microbatches:
        yield []
        return
    server = start_server(case, folder, name, settings)
    try:
        own = [f"placement.microbatches={case.microbatches}"]
        own += [f"placement.certificates={folder / 'keys' / 'client'}"] if case.is_encrypted else []
        address = (folder / f"{name}.ready").read_text().strip()
        if not case.is_far:
            yield [*own, f"placement.server={address}"]
            return
        with SlowLink(int(address.rpartition(":")[2]), args.mbps, args.rtt) as link:
            yield [*own, f"placement.server=localhost:{link.port}"]
    finally:
        server.terminate()
        server.wait()


def start_server(case: Case, folder: Path, name: str, settings: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a server, and return once clients may come."""
    ready = folder / f"{name}.ready"
    shared = [text for text in settings if text.lstrip("+~").split("=")[0].split(".")[0] in _SHARED]
    own = ["port=0", f"ready_file={ready}", "threads=1", "verbose=false"]
    own += [f"certificates={folder / 'keys' / 'server'}"] if case.is_encrypted else []
    command = [sys.executable, "-m", "splitlearn", "serve", *own, *shared]
    server = subprocess.Popen(command, env=environment(1), stdout=subprocess.DEVNULL)
    until = time.monotonic() + _START_SECONDS
    while not ready.is_file():
        if server.poll() is not None or time.monotonic() > until:
            server.terminate()
            server.wait()
            raise SystemExit(f"the server of {name} did not start; it has said why")
        time.sleep(0.1)
    return server


def environment(num_threads: int) -> dict[str, str]:
    """Return the environment of a process that computes with some threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(num_threads), "HF_HUB_OFFLINE": "1"}


def figures_of(summary: RunSummary) -> dict[str, Any]:
    """Return what the tables need of a run: seconds and bytes of a step, ``link_s`` of the link model, and memory in GiB."""
    phases, metrics, link = summary.phases or {}, summary.metrics or {}, summary.link or {}
    figures: dict[str, Any] = {name: phases[name]["median_s"] for name in ("step", "data", "optimizer")}
    figures |= {"link_s": link["link_s"], "client_gib": metrics["peak_rss_gib"]}
    server = summary.server
    if server is not None:
        num_steps = metrics["train_steps"]
        figures |= {
            "waited": phases["waiting_for_servers"]["median_s"],
            "computed": phases["at_servers"]["median_s"],
            "wire_bytes": (server["sent_bytes"] + server["received_bytes"] - server["state_bytes"]) / num_steps,
            "counted_bytes": link["bytes"],
            "server_gib": server["peak_rss_bytes"] / _GIB,
            "reconnects": server["reconnects"],
        }
    return figures
