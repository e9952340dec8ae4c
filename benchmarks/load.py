"""What loading costs: peak anonymous memory and time, against transformers' from_pretrained in the same run.

python benchmarks/load.py                         the shape of Qwen2-1.5B, 3.1 GB in bf16
python benchmarks/load.py --shape qwen2_0_5b      smaller
python benchmarks/load.py --runs 5 --write        append the table to benchmarks/RESULTS.md

The checkpoint has random weights and lies in a temporary folder (--folder keeps it). Each loader runs in a process of its own,
in turn, with a warm page cache. "Anonymous" is memory that no file backs, above what the process held once its imports were
done.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from report import add_write_option, publish

GIB = 2**30
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen2_0_5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen2_1_5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}
LOADERS = ("from_pretrained", "splitlearn", "splitlearn_whole")
SHARD_BYTES = 800 * 10**6


def make_checkpoint(shape: str, folder: Path) -> int:
    """Write random bf16 weights of a shape as a sharded checkpoint, one shard in memory at a time; return its bytes."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(vocab_size=151936, dtype=torch.bfloat16, **SHAPES[shape])
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    weights = {name: tensor.shape for name, tensor in model.named_parameters()}
    groups: list[list[str]] = [[]]
    size = 0
    for name, dimensions in weights.items():
        tensor_bytes = 2 * dimensions.numel()
        if groups[-1] and size + tensor_bytes > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor_bytes
    weight_map = {}
    for number, names in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file({name: 0.02 * torch.randn(weights[name], dtype=torch.bfloat16) for name in names}, folder / file)
        weight_map.update(dict.fromkeys(names, file))
    total = sum(2 * dimensions.numel() for dimensions in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def measure(loader: str, folder: Path, num_layers: int) -> dict[str, float]:
    """Load once in this process and return seconds and bytes."""
    import torch
    from transformers import AutoModelForCausalLM

    from splitlearn.memory import MemoryTracker
    from splitlearn.model import ComposedCausalLM, ModelFactory

    ids = torch.randint(0, 1000, (1, 16))
    with MemoryTracker(sample_interval_s=0.002) as tracker:
        start = tracker.snapshot("imports done")
        began_s = time.perf_counter()
        if loader == "from_pretrained":
            model: Any = AutoModelForCausalLM.from_pretrained(folder)
        else:
            cut = num_layers // 4, num_layers - num_layers // 4
            parts = ModelFactory.create_split_models("qwen2", folder, *cut, low_memory=loader == "splitlearn")
            model = ComposedCausalLM(*parts)
        load_s = time.perf_counter() - began_s
        peak_anonymous = tracker.peak_anonymous_bytes
        with torch.no_grad():
            model(ids)
        forward_s = time.perf_counter() - began_s
    return {
        "load_s": load_s,
        "first_forward_s": forward_s,
        "peak_anonymous_bytes": peak_anonymous - (start.anonymous_bytes or 0),
        "peak_rss_bytes": tracker.peak_rss_bytes - start.rss_bytes,
    }


def run_all(folder: Path, shape: str, runs: int) -> dict[str, dict[str, float]]:
    """Run every loader in turn, ``runs`` times after a warm-up, and return the medians."""
    results: dict[str, list[dict[str, float]]] = {loader: [] for loader in LOADERS}
    for number in range(runs + 1):
        for loader in LOADERS:
            command = [sys.executable, __file__, "--measure", loader, "--folder", str(folder), "--shape", shape]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            if number:
                results[loader].append(json.loads(printed.splitlines()[-1]))
    return {
        loader: {name: statistics.median(each[name] for each in measured) for name in measured[0]}
        for loader, measured in results.items()
    }


def table(results: dict[str, dict[str, float]], checkpoint_bytes: int) -> str:
    """Return the results as a Markdown table, with ratios against from_pretrained."""
    labels = {
        "from_pretrained": "transformers `from_pretrained`",
        "splitlearn": "splitlearn, three parts, `low_memory=True`",
        "splitlearn_whole": "splitlearn, `low_memory=False`",
    }
    peer = results["from_pretrained"]
    rows = [
        "| loader | load s | to first forward s | peak anonymous / checkpoint | peak resident / checkpoint | load time ratio |",
        "|---|---|---|---|---|---|",
    ]
    for loader, each in results.items():
        figures = [
            f"{each['load_s']:.2f}",
            f"{each['first_forward_s']:.2f}",
            f"{each['peak_anonymous_bytes'] / checkpoint_bytes:.3f}x",
            f"{each['peak_rss_bytes'] / checkpoint_bytes:.2f}x",
            f"{each['load_s'] / peer['load_s']:.2f}x",
        ]
        rows.append(f"| {labels[loader]} | {' | '.join(figures)} |")
    return "\n".join(rows)


def describe_machine() -> str:
    """Return the hardware and versions in one line."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "safetensors"))
    memory_gib = psutil.virtual_memory().total / GIB
    return f"{psutil.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}, {versions}"


def main() -> None:
    """Make the checkpoint, run the loaders, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2_1_5b")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or is to be written and kept")
    add_write_option(parser)
    parser.add_argument("--measure", choices=LOADERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.folder, SHAPES[arguments.shape]["num_hidden_layers"])))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        index = folder / "model.safetensors.index.json"
        if not index.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            make_checkpoint(arguments.shape, folder)
        checkpoint_bytes = json.loads(index.read_text())["metadata"]["total_size"]
        results = run_all(folder, arguments.shape, arguments.runs)
    heading = f"## Loading the shape of {arguments.shape}, {checkpoint_bytes / 10**9:.2f} GB in bf16, warm page cache"
    report = f"{heading}\n\n{describe_machine()}; median of {arguments.runs} runs.\n\n{table(results, checkpoint_bytes)}\n"
    publish(report, arguments.write)


if __name__ == "__main__":
    main()
