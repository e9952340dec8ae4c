"""What loading costs, against transformers' from_pretrained and accelerate's load_checkpoint_and_dispatch in the same run.

python benchmarks/load.py                         the shape of Qwen2-1.5B, 3.1 GB in bf16
python benchmarks/load.py --shape qwen2_7b        15 GB: give --folder a place on a disk that has room
python benchmarks/load.py --cold                  with the checkpoint's pages dropped from the page cache before each load
python benchmarks/load.py --device cuda           onto a GPU
python benchmarks/load.py --runs 5 --write        append the table to benchmarks/RESULTS.md

The checkpoint has random weights and lies in a temporary folder (--folder keeps it). Each loader runs in a process of its own,
in turn. "Anonymous" is memory that no file backs, "resident" all memory; both above what the process held once its imports were
done, at the peak of loading. "Read" is what the loader asked of the files, as its receipt says; "from disk" is what the system
then read, pages ahead included. On a GPU, loading ends when the weights are there; its memory is what torch allocates there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from report import add_write_option, describe_machine, publish

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
    "qwen2_7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
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
LABELS = {
    "from_pretrained": "transformers `from_pretrained`",
    "accelerate": "accelerate `load_checkpoint_and_dispatch`",
    "splitlearn": "splitlearn, three parts",
    "splitlearn_whole": "splitlearn, `low_memory=False`",
    "trained": "splitlearn, three parts to be trained",
    "from_pretrained_fp32": "transformers `from_pretrained`, cast to fp32",
    "splitlearn_fp32": "splitlearn, three parts, cast to fp32",
    "trunk": "splitlearn, trunk alone",
    "from_pretrained_int8": "transformers `from_pretrained`, int8 by torchao",
    "splitlearn_int8": "splitlearn, three parts, int8 by torchao",
    "trunk_int8": "splitlearn, trunk alone, int8 by torchao",
    "from_pretrained_nf4": "transformers `from_pretrained`, nf4 by bitsandbytes",
    "splitlearn_nf4": "splitlearn, three parts, nf4 by bitsandbytes",
    "trunk_nf4": "splitlearn, trunk alone, nf4 by bitsandbytes",
}
# What is loaded in another form than the checkpoint's is compared with what loads the same.
FORMS = ("fp32", "int8", "nf4")
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
        save_file(
            {name: 0.02 * torch.randn(weights[name], dtype=torch.bfloat16) for name in names}, folder / file, {"format": "pt"}
        )
        weight_map.update(dict.fromkeys(names, file))
    total = sum(2 * dimensions.numel() for dimensions in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def load(loader: str, folder: Path, num_layers: int, device: str) -> tuple[Any, int, int]:
    """Load once onto a device.

    Returns:
        The model or part, the bytes of its weights, and the bytes asked of the files where a receipt says so, else 0.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from splitlearn.loading import ModelFactory
    from splitlearn.loading.quantization import quantization_config
    from splitlearn.model import ComposedCausalLM
    from splitlearn.model.quantized import stored_bytes

    form = form_of(loader)
    dtype = torch.float32 if form == "fp32" else torch.bfloat16
    quantization = form if form in ("int8", "nf4") else None
    if loader.startswith("from_pretrained"):
        settings = {"dtype": dtype, "quantization_config": quantization_config(quantization)}
        settings |= {} if device == "cpu" else {"device_map": device}
        model = AutoModelForCausalLM.from_pretrained(folder, **settings)
        return model, sum(stored_bytes(each) for each in model.parameters()), 0
    if loader == "accelerate":
        from accelerate import init_empty_weights, load_checkpoint_and_dispatch

        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
        model.tie_weights()
        model = load_checkpoint_and_dispatch(model, folder, device_map={"": device}, dtype=dtype)
        return model, sum(each.nbytes for each in model.parameters()), 0
    cut = num_layers // 4, num_layers - num_layers // 4
    if loader == "splitlearn_whole":
        composed = ComposedCausalLM(*ModelFactory.create_split_models(None, folder, *cut, low_memory=False, device=device))
        return composed, sum(each.nbytes for each in composed.parameters()), 0
    names = ("trunk",) if loader.startswith("trunk") else ("bottom", "trunk", "top")
    settings = {"dtype": dtype, "quantization": quantization, "trained": names if loader == "trained" else (), "device": device}
    loaded = ModelFactory.load_parts(folder, *cut, names, **settings)
    model = loaded["trunk"] if loader.startswith("trunk") else ComposedCausalLM(*loaded.parts.values())
    distinct = {parameter for part in loaded.parts.values() for parameter in part.parameters()}
    read = sum(each.read_bytes for each in loaded.receipt.parts)
    return model, sum(stored_bytes(each) for each in distinct), read


def form_of(loader: str) -> str:
    """Return in which form a loader loads the weights: one of `FORMS`, or nothing for the checkpoint's own."""
    return next((form for form in FORMS if loader.endswith(form)), "")


def measure(loader: str, folder: Path, shape: str, device: str) -> dict[str, float]:
    """Load once in this process and return seconds and bytes."""
    import torch

    # Imported here, so that it counts for no loader.
    from transformers.models.qwen2 import modeling_qwen2  # noqa: F401

    from splitlearn.loading import ModelFactory  # noqa: F401
    from splitlearn.memory import MemoryTracker

    if loader == "accelerate":
        import accelerate  # noqa: F401
    if form_of(loader) in ("int8", "nf4"):
        import bitsandbytes  # noqa: F401
        import torchao.quantization  # noqa: F401

    # The first tensor on a GPU starts its context, which counts for no loader.
    hidden_BTD = torch.zeros(1, 16, SHAPES[shape]["hidden_size"], dtype=torch.bfloat16, device=device)
    inputs = hidden_BTD if loader.startswith("trunk") else torch.randint(0, 1000, (1, 16), device=device)
    disk_bytes = bytes_from_disk()
    with MemoryTracker(sample_interval_s=0.002) as tracker:
        start = tracker.snapshot("imports done")
        began_s = time.perf_counter()
        model, weight_bytes, read_bytes = load(loader, folder, SHAPES[shape]["num_hidden_layers"], device)
        _wait_for(device)
        load_s = time.perf_counter() - began_s
        tracker.sample()
        peak_anonymous_bytes = tracker.peak_anonymous_bytes
        peak_gpu_bytes = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        with torch.no_grad():
            model(inputs)
        _wait_for(device)
        forward_s = time.perf_counter() - began_s
    return {
        "load_s": load_s,
        "first_forward_s": forward_s,
        "weight_bytes": weight_bytes,
        "read_bytes": read_bytes,
        "disk_bytes": bytes_from_disk() - disk_bytes,
        "peak_anonymous_bytes": peak_anonymous_bytes - (start.anonymous_bytes or 0),
        "peak_rss_bytes": tracker.peak_rss_bytes - start.rss_bytes,
        "peak_gpu_bytes": peak_gpu_bytes,
    }


def _wait_for(device: str) -> None:
    """Return when a device has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def bytes_from_disk() -> int:
    """Return how much storage has read for this process, mapped pages and pages ahead included; 0 where that is not told."""
    counters = getattr(psutil.Process(), "io_counters", None)
    return counters().read_bytes if counters else 0


def drop_pages(folder: Path) -> None:
    """Ask the system to forget the pages of a checkpoint's files."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_all(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Run every loader in turn, ``runs`` times after a warm-up, and return the medians."""
    loaders, runs, cold = arguments.loaders, arguments.runs, arguments.cold
    places = ["--folder", str(folder), "--shape", arguments.shape, "--device", arguments.device]
    results: dict[str, list[dict[str, float]]] = {loader: [] for loader in loaders}
    for number in range(0 if cold else -1, runs):
        for loader in loaders:
            if cold:
                drop_pages(folder)
            command = [sys.executable, __file__, "--measure", loader, *places]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            if number >= 0:
                results[loader].append(json.loads(printed.splitlines()[-1]))
    return {
        loader: {name: statistics.median(each[name] for each in measured) for name in measured[0]}
        for loader, measured in results.items()
    }


def table(results: dict[str, dict[str, float]], device: str) -> str:
    """Return the results as a Markdown table; times also as ratios against the peer that loads the same."""
    sizes = ["peak_anonymous_bytes", "peak_rss_bytes", "read_bytes", "disk_bytes"]
    titles = ["peak anonymous", "peak resident", "read", "from disk"]
    if device == "cuda":
        sizes.append("peak_gpu_bytes")
        titles.append("peak on the GPU")
    rows = [
        "| loader | weights GB | load s | ratio | to first forward s | ratio "
        f"| {' | '.join(f'{title} / weights' for title in titles)} |",
        f"|{'---|' * (6 + len(titles))}",
    ]
    for loader, each in results.items():
        form = form_of(loader)
        peer = results.get(f"from_pretrained_{form}" if form else "from_pretrained")
        figures = [f"{each['weight_bytes'] / 10**9:.2f}"]
        for name in ("load_s", "first_forward_s"):
            is_comparable = peer is not None and not loader.startswith("trunk")
            figures += [f"{each[name]:.2f}", f"{each[name] / peer[name]:.2f}x" if is_comparable else ""]
        for name in sizes:
            is_told = name != "read_bytes" or each[name]
            figures.append(f"{each[name] / each['weight_bytes']:.3f}x" if is_told else "")
        rows.append(f"| {LABELS[loader]} | {' | '.join(figures)} |")
    return "\n".join(rows)


def main() -> None:
    """Make the checkpoint, run the loaders, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2_1_5b")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--loaders", nargs="+", choices=LABELS, default=list(LABELS), help="which to run; all by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cold", action="store_true", help="drop the checkpoint's pages from the page cache before each load")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or is to be written and kept")
    add_write_option(parser)
    parser.add_argument("--measure", choices=LABELS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.folder, arguments.shape, arguments.device)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        index = folder / "model.safetensors.index.json"
        if not index.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            make_checkpoint(arguments.shape, folder)
        checkpoint_bytes = json.loads(index.read_text())["metadata"]["total_size"]
        results = run_all(arguments, folder)
    state = "cold" if arguments.cold else "warm"
    heading = f"## Loading the shape of {arguments.shape}, {checkpoint_bytes / 10**9:.2f} GB in bf16, {state} page cache"
    machine = describe_machine("torch", "transformers", "safetensors", gpu=arguments.device == "cuda")
    report = f"{heading}\n\n{machine}; median of {arguments.runs} runs.\n\n{table(results, arguments.device)}\n"
    publish(report, arguments.write)


if __name__ == "__main__":
    main()
