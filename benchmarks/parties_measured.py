"""What the benchmark of parties measures in a process of its own: the stages of a step, messages, and generation.

    python benchmarks/parties_measured.py stages --rows 4 --tokens 128 --new-tokens 32 --settings model=embedded

It prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import torch
from parties_table import MICROBATCHES, STAGES
from torch import nn

from splitlearn import compose
from splitlearn.app.connecting import connected
from splitlearn.app.making import make_module
from splitlearn.app.models import open_model
from splitlearn.app.placing import resolve_placement
from splitlearn.app.run_settings import settle_settings
from splitlearn.parties import MessageReader, WireLimits, party_pb2, write_message
from splitlearn.training import LogitsLimit, SplitCausalLM, TopLoss

_REPEATS = 3
_PROMPT_TOKENS = 64


def open_module(settings: list[str], stack: ExitStack) -> tuple[Any, SplitCausalLM]:
    """Return a configuration of ``train`` and its module, loaded, with the server that it names."""
    cfg = compose(*settings)
    settle_settings(cfg)
    placement = resolve_placement(cfg, elsewhere=True)
    held = open_model(cfg).only(placement.parts_here())
    module = make_module(cfg, held, placement)
    stack.enter_context(connected(cfg, placement, module, held, "benchmark"))
    module.load_parts()
    return cfg, module


def stages(args: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each stage of one microbatch by the number of microbatches, and those of messages and steps."""
    with ExitStack() as stack:
        cfg, module = open_module(args.settings, stack)
    module.train()
    vocab_size = int(module.composed.bottom.config.get_text_config(decoder=True).vocab_size)
    figures: dict[str, Any] = {"stages": {}, "messages": {}}
    for count in MICROBATCHES:
        ids_BT = torch.randint(3, vocab_size, (max(args.rows // count, 1), args.tokens))
        hidden_BTD, seconds = stages_of_microbatch(module, ids_BT, cfg.max_logits_mib)
        figures["stages"][count] = seconds
        figures["messages"][count] = {
            # The columns of int8: numbers, and a scale for each token.
            "exact": message_seconds({"hidden/values": hidden_BTD}),
            "int8": message_seconds({"hidden/values": hidden_BTD.to(torch.int8), "hidden/scale": hidden_BTD[..., 0]}),
        }
    bottom, trunk, top = module.parts
    figures["client_step"], figures["server_step"] = optimizer_seconds([bottom, top]), optimizer_seconds([trunk])
    return figures


def stages_of_microbatch(
    module: SplitCausalLM, ids_BT: torch.Tensor, max_logits_mib: LogitsLimit
) -> tuple[torch.Tensor, dict[str, float]]:
    """Run a microbatch (B, T) forward and back part by part; return smashed data (B, T, D), and the median of each stage."""
    # Memory is allocated in the first round.
    run_stages(module, ids_BT, max_logits_mib)
    rounds = [run_stages(module, ids_BT, max_logits_mib) for _ in range(_REPEATS)]
    return rounds[0][0], {name: statistics.median(seconds[name] for _, seconds in rounds) for name in STAGES}


def run_stages(
    module: SplitCausalLM, ids_BT: torch.Tensor, max_logits_mib: LogitsLimit
) -> tuple[torch.Tensor, dict[str, float]]:
    """Run a microbatch (B, T) forward and back once; return smashed data (B, T, D), and the seconds of each stage."""
    bottom, trunk, top = module.parts
    # The models of this benchmark have a plain linear head.
    loss_of = TopLoss(top, max_logits_mib, lambda: True)
    arguments = loss_of.arguments(ids_BT.numel())
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    below = bottom.run(ids_BT, use_cache=False).output
    mark()
    cut_1 = below.detach().requires_grad_(below.requires_grad)
    between = trunk.run(cut_1, use_cache=False).output
    mark()
    cut_2 = between.detach().requires_grad_(between.requires_grad)
    loss = loss_of.of(top.run(cut_2, use_cache=False, **arguments).output, ids_BT, ids_BT.numel()).text
    mark()
    loss.backward()
    mark()
    if between.requires_grad:
        between.backward(cut_2.grad)
    mark()
    if below.requires_grad:
        below.backward(cut_1.grad)
    mark()
    module.zero_grad()
    return below.detach(), {name: later - earlier for name, (earlier, later) in zip(STAGES, pairwise(marks), strict=True)}


def message_seconds(tensors: dict[str, torch.Tensor]) -> float:
    """Return how long it takes to write a message with these tensors and to read it, as the sender and the receiver do."""
    seconds = []
    for _ in range(1 + _REPEATS):
        reader, began = MessageReader(WireLimits(), "the benchmark"), time.perf_counter()
        for frame in write_message(party_pb2.Head(forward=party_pb2.Forward()), tensors):
            reader.add(frame)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def optimizer_seconds(parts: Iterable[nn.Module]) -> float:
    """Return how long AdamW takes for a step of what is trained of some parts."""
    # A tied head is one parameter of two parts.
    trained = list({parameter: None for part in parts for parameter in part.parameters() if parameter.requires_grad})
    if not trained:
        return 0.0
    optimizer = torch.optim.AdamW(trained, lr=0.0)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    seconds = []
    for _ in range(1 + _REPEATS):
        began = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def generate(args: argparse.Namespace) -> dict[str, Any]:
    """Return ``tokens_per_s`` of greedy generation after a prompt of 64 tokens, with a server if the settings name one."""
    with ExitStack() as stack:
        _, module = open_module(args.settings, stack)
        vocab_size = int(module.composed.bottom.config.get_text_config(decoder=True).vocab_size)
        prompt_BT = torch.randint(3, vocab_size, (1, _PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
        seconds = 0.0
        # Memory is allocated in the first round.
        for num_tokens in (2, args.new_tokens):
            lengths = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
            began = time.perf_counter()
            module.generate(prompt_BT, attention_mask=torch.ones_like(prompt_BT), do_sample=False, pad_token_id=0, **lengths)
            seconds = time.perf_counter() - began
    return {"tokens_per_s": args.new_tokens / seconds}


def main() -> None:
    """Measure, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("stages", "generate"))
    for name in ("--rows", "--tokens", "--new-tokens"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--settings", nargs="*", default=[])
    args = parser.parse_args()
    print(json.dumps({"stages": stages, "generate": generate}[args.task](args)))


if __name__ == "__main__":
    main()
