"""What a step costs if a server holds the trunk: client and server in processes of their own, against one process.

    python benchmarks/parties.py                      SmolLM2-135M with LoRA, 4 x 128 tokens a step, 12 steps of each case
    python benchmarks/parties.py --steps 3 --cases one clear-1 tls-4 --settings model=embedded
    python benchmarks/parties.py --write              append the table to benchmarks/RESULTS.md

Client and server have one thread each, and one process has two. Cases: with mutual TLS or in the clear, with 1, 2 or 4
microbatches, with the codec int8, and over a link as slow as a network (100 Mbit/s, 20 ms unless told otherwise). Times are
medians of the steps of a run, without its first. The ideal is what the measured computing of both would take if nothing but
the first and the last microbatch kept one of them waiting.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import add_write_option, describe_machine, publish
from slow_link import SlowLink

from splitlearn.certificates import make_certificates
from splitlearn.runs import RunSummary, read_summary

_SHARED = ("model", "split", "peft", "optimizer", "boundary", "gradient_checkpointing")
_DEFAULTS = ("model=smollm2_135m_instruct", "split=points", "split.point_1=4", "split.point_2=26", "peft=lora")
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
    """

    label: str
    microbatches: int = 0
    is_encrypted: bool = True
    boundary: str = "exact"
    is_far: bool = False


CASES = {
    "one": Case("one process"),
    "clear-1": Case("in the clear", 1, is_encrypted=False),
    "tls-1": Case("mutual TLS", 1),
    "tls-2": Case("mutual TLS", 2),
    "tls-4": Case("mutual TLS", 4),
    "clear-4": Case("in the clear", 4, is_encrypted=False),
    "int8-4": Case("mutual TLS, int8", 4, boundary="int8"),
    "far-1": Case("mutual TLS, slow link", 1, is_far=True),
    "far-4": Case("mutual TLS, slow link", 4, is_far=True),
    "far-int8-4": Case("mutual TLS, int8, slow link", 4, boundary="int8", is_far=True),
}


@dataclass(frozen=True)
class Outcome:
    """A run, and the most memory that its server had resident, in bytes."""

    summary: RunSummary
    server_bytes: int = 0

    @property
    def step_s(self) -> float:
        """The median of a step's seconds."""
        return float((self.summary.phases or {})["step"]["median_s"])

    def server(self, name: str) -> float:
        """A figure of the server for one step."""
        return float((self.summary.server or {}).get(name) or 0.0) / float((self.summary.metrics or {})["train_steps"])


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of each run; the first is not counted")
    parser.add_argument("--runs", type=int, default=1, help="runs of each case, in turn; the one of the median step is shown")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which to run; all by default")
    parser.add_argument("--rows", type=int, default=4, help="rows of a batch; at least as many as microbatches")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a row")
    parser.add_argument("--mbps", type=float, default=100.0, help="megabits a second of the slow link, in each direction")
    parser.add_argument("--rtt", type=float, default=20.0, help="milliseconds of a round trip over the slow link")
    parser.add_argument(
        "--settings", nargs="*", default=[], help="settings of model, split, peft and optimizer for another model"
    )
    add_write_option(parser)
    args = parser.parse_args()
    found: dict[str, list[Outcome]] = {name: [] for name in args.cases}
    with tempfile.TemporaryDirectory() as folder:
        make_certificates(Path(folder) / "keys", ["server", "client"], ["localhost"])
        for number in range(args.runs):
            # Whoever comes second finds caches warm, so they take turns.
            for name in args.cases if number % 2 == 0 else reversed(args.cases):
                found[name].append(run(CASES[name], Path(folder), f"{name}-{number}", args))
    publish(report({name: middle_of(outcomes) for name, outcomes in found.items()}, args), args.write)


def run(case: Case, folder: Path, name: str, args: argparse.Namespace) -> Outcome:
    """Train in one way, and return what the run says of itself."""
    own = [*(args.settings or _DEFAULTS), f"boundary={case.boundary}"]
    settings = [*own, *_PLAIN, *_QUIET, f"trainer.max_steps={args.steps}", f"data.batch_size={args.rows}"]
    settings += [f"data.block_size={args.tokens}", f"data.max_train_blocks={args.rows * args.steps}", "placement=u_shaped"]
    settings += [f"link.bandwidth_mbps={args.mbps}", f"link.rtt_ms={args.rtt}", f"hydra.run.dir={folder / name}"]
    with ExitStack() as stack:
        server = None
        if case.microbatches:
            server = start_server(case, folder, name, own)
            stack.callback(end, server)
            address = (folder / f"{name}.ready").read_text().strip()
            if case.is_far:
                link = stack.enter_context(SlowLink(int(address.rpartition(":")[2]), args.mbps, args.rtt))
                address = f"localhost:{link.port}"
            settings += [f"placement.server={address}", f"placement.microbatches={case.microbatches}"]
            settings += [f"placement.certificates={folder / 'keys' / 'client'}"] if case.is_encrypted else []
        command = [sys.executable, "-m", "splitlearn", "train", *settings]
        done = subprocess.run(command, env=environment(1 if case.microbatches else 2), capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        summary = read_summary(folder / name)
        if summary is None:
            raise SystemExit(f"{name} has left no summary.json")
        return Outcome(summary, 0 if server is None else most_resident(server.pid))


def start_server(case: Case, folder: Path, name: str, settings: list[str]) -> subprocess.Popen[bytes]:
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
            end(server)
            raise SystemExit(f"the server of {name} did not start; it has said why")
        time.sleep(0.1)
    return server


def end(server: subprocess.Popen[bytes]) -> None:
    """End a server, and wait for its end."""
    server.terminate()
    server.wait()


def environment(num_threads: int) -> dict[str, str]:
    """Return the environment of a process that computes with some threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(num_threads), "HF_HUB_OFFLINE": "1"}


def most_resident(process: int) -> int:
    """Return the most memory that a process has had resident, in bytes; 0 where the system does not say."""
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def middle_of(outcomes: list[Outcome]) -> Outcome:
    """Return the outcome whose step is the median one."""
    middle = statistics.median_low([outcome.step_s for outcome in outcomes])
    return next(outcome for outcome in outcomes if outcome.step_s == middle)


def report(found: dict[str, Outcome], args: argparse.Namespace) -> str:
    """Return the results as a Markdown section."""
    settings = " ".join(args.settings) or "SmolLM2-135M with LoRA, cut at 4 / 26"
    lines = [
        "## A server that holds the trunk",
        "",
        f"{describe_machine('torch', 'lightning', 'transformers', 'grpcio')}; {settings}; {args.rows} x {args.tokens} tokens a "
        f"step, {args.steps} steps, {args.runs} runs; client and server with a thread each, one process with two; the slow "
        f"link has {args.mbps:g} Mbit/s and {args.rtt:g} ms.",
        "",
        "| case | microbatches | step s | to one process | ideal s | client waits | transport | wire bytes | tokens/s "
        "| client GiB | server GiB |",
        f"|{'---|' * 11}",
    ]
    lines += [row(name, outcome, found) for name, outcome in found.items()]
    return "\n".join([*lines, *told_of_the_link(found)]) + "\n"


def row(name: str, outcome: Outcome, found: dict[str, Outcome]) -> str:
    """Return a case's line of the table."""
    case, metrics = CASES[name], outcome.summary.metrics or {}
    one = found.get("one")
    cells = [case.label, str(case.microbatches or ""), f"{outcome.step_s:.3f}"]
    cells.append("" if one is None else f"{outcome.step_s / one.step_s:.2f}x")
    if case.microbatches:
        waited_s, computed_s = outcome.server("waited_s"), outcome.server("computed_s")
        client_s = max(outcome.step_s - waited_s, 0.0)
        longer, shorter = max(client_s, computed_s), min(client_s, computed_s)
        # With one microbatch the client waits for all that the server computes; the rest is the way.
        way = f"{max(waited_s - computed_s, 0.0) / outcome.step_s:.1%}" if case.microbatches == 1 else ""
        cells += [f"{longer + shorter / case.microbatches:.3f}", f"{waited_s / outcome.step_s:.1%}", way, wire_ratio(outcome)]
    else:
        cells += [""] * 4
    cells += [f"{metrics.get('tokens_per_s') or 0.0:.0f}", f"{metrics.get('peak_rss_gib') or 0.0:.2f}"]
    cells.append(f"{outcome.server_bytes / _GIB:.2f}" if case.microbatches else "")
    return f"| {' | '.join(cells)} |"


def wire_ratio(outcome: Outcome) -> str:
    """Return the bytes of all messages against those that the meter has counted."""
    server, traffic = outcome.summary.server or {}, outcome.summary.traffic or {}
    sent = server["sent_bytes"] + server["received_bytes"] - server["state_bytes"]
    counted = sum(
        count
        for cuts in (traffic, traffic.get("evaluation") or {})
        for cut in ("cut_1", "cut_2")
        for name, count in (cuts.get(cut) or {}).items()
        if not name.endswith("per_step")
    )
    return f"{sent / counted:.4f}x" if counted else ""


def told_of_the_link(found: dict[str, Outcome]) -> list[str]:
    """Return what the link model has said of a step over the slow link, from the run in one process."""
    link: dict[str, Any] = (found["one"].summary.link or {}) if "one" in found else {}
    if link.get("step_s") is None:
        return []
    return ["", f"The link model reckons {link['step_s']:.3f} s for a step over the slow link without microbatches and codecs."]


if __name__ == "__main__":
    main()
