"""How planning a cut and loading one small part grow with the model: they should grow with the part.

python benchmarks/scale.py                the shapes of Qwen2-1.5B, 7B and 72B
python benchmarks/scale.py --write        append the table to benchmarks/RESULTS.md

The checkpoints have true indexes and headers, and holes where the weights would be, so they take no room on the disk. Each
shape is planned, and a trunk of two layers loaded to be trained, in a process of its own, after the imports. "Planned without
activations" is the plan without what a batch keeps for the backward pass. "Anonymous" is memory that no file backs, above what
the process held once its imports were done.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from load import SHAPES
from report import add_write_option, describe_machine, publish
from sparse_checkpoint import write_sparse_checkpoint

SCALE_SHAPES: dict[str, dict[str, Any]] = {
    "qwen2_1_5b": SHAPES["qwen2_1_5b"],
    "qwen2_7b": SHAPES["qwen2_7b"],
    "qwen2_72b": {
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}
TINY = {"tiny": SHAPES["tiny"]}


def make(shape: dict[str, Any], folder: Path) -> None:
    """Write the checkpoint of a shape, without its weights."""
    import torch
    from transformers import Qwen2Config

    write_sparse_checkpoint(Qwen2Config(vocab_size=151936, dtype=torch.bfloat16, **shape), folder)


def measure(folder: Path) -> dict[str, float]:
    """Plan, and load a trunk of two layers, in this process; return seconds and bytes."""
    # Imported here, so that it does not count.
    from transformers.models.qwen2 import modeling_qwen2  # noqa: F401

    from splitlearn.app import compose, plan
    from splitlearn.cut import Placement
    from splitlearn.loading import ModelFactory, ModelRequest
    from splitlearn.memory import MemoryTracker
    from splitlearn.planning import cost_of

    overrides = ["model=pretrained", f"model.name_or_path={folder}", "split.point_1=1", "split.point_2=3", "device_map=null"]
    cfg = compose(*overrides, config_name="plan")
    figures: dict[str, float] = {}
    began_s = time.perf_counter()
    opened = ModelRequest(folder, 1, 3).open()
    cost_of(opened, Placement.one_party(num_gpus=0), 8, 128, 8, with_activations=False)
    figures["short_plan_s"] = time.perf_counter() - began_s
    began_s = time.perf_counter()
    cost = plan(cfg)
    figures["plan_s"] = time.perf_counter() - began_s
    figures["parameters"] = sum(part.num_parameters for part in cost.parts)
    with MemoryTracker(sample_interval_s=0.002) as tracker:
        start = tracker.snapshot("imports done")
        began_s = time.perf_counter()
        loaded = ModelFactory.load_parts(folder, 1, 3, ["trunk"], trained=["trunk"])
        figures["load_s"] = time.perf_counter() - began_s
        tracker.sample()
        figures["peak_bytes"] = tracker.peak_anonymous_bytes - (start.anonymous_bytes or 0)
    receipt = loaded.receipt.parts[0]
    return figures | {"part_bytes": receipt.weight_bytes, "read_bytes": receipt.read_bytes, "shards": len(receipt.shards)}


def table(results: dict[str, dict[str, float]]) -> str:
    """Return the results as a Markdown table."""
    rows = [
        "| shape | parameters | planned s | planned without activations s | part GB | its shards | read / part "
        "| loaded s | GB/s | peak anonymous / part |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for shape, each in results.items():
        part_gb = each["part_bytes"] / 10**9
        figures = [f"{each['parameters'] / 10**9:.2f} B", f"{each['plan_s']:.2f}", f"{each['short_plan_s']:.2f}"]
        figures += [f"{part_gb:.3f}", f"{each['shards']:.0f}", f"{each['read_bytes'] / each['part_bytes']:.3f}x"]
        figures += [f"{each['load_s']:.2f}", f"{part_gb / each['load_s']:.2f}"]
        figures.append(f"{each['peak_bytes'] / each['part_bytes']:.3f}x")
        rows.append(f"| {shape} | {' | '.join(figures)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure every shape and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=[*SCALE_SHAPES, *TINY], default=list(SCALE_SHAPES))
    parser.add_argument("--runs", type=int, default=3)
    add_write_option(parser)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    results = {}
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory() as temporary:
            make({**SCALE_SHAPES, **TINY}[shape], Path(temporary))
            command = [sys.executable, __file__, "--measure", temporary]
            runs = [subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True) for _ in range(arguments.runs)]
        measured = [json.loads(done.stdout.splitlines()[-1]) for done in runs]
        results[shape] = {name: statistics.median(each[name] for each in measured) for name in measured[0]}
    heading = "## Planning a cut, and loading a trunk of two layers to be trained"
    note = "The files hold holes for weights, so GB/s is that of memory and not of a disk."
    machine = describe_machine("torch", "transformers", "safetensors")
    conditions = f"{machine}; median of {arguments.runs} runs. {note}"
    publish(f"{heading}\n\n{conditions}\n\n{table(results)}\n", arguments.write)


if __name__ == "__main__":
    main()
