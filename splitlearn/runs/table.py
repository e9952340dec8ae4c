"""The end of a run as a table for the eye."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from splitlearn.memory import GIB, format_bytes
from splitlearn.runs.privacy_words import privacy_in_words
from splitlearn.runs.summary import RunSummary
from splitlearn.terminal import make_console

# The share of padding above which another packing is worth a remark.
_MUCH_PADDING = 0.25


def print_summary(summary: RunSummary) -> None:
    """Print held-out loss before and after, memory for each part, throughput, and where the files are."""
    make_console().print(Group(_quality_table(summary), _parts_table(summary), _footer(summary)))


def _quality_table(summary: RunSummary) -> Table:
    title = f"{summary.model} cut at {summary.split_point_1} / {summary.split_point_2}"
    table = Table(title=title, title_justify="left")
    table.add_column("held-out text")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    metrics = summary.metrics or {}
    if metrics["val_loss_after"] is None:
        table.add_row("nothing was held out", "-", "-")
        return table
    for label, name, places in (("loss (nats a token)", "val_loss", 4), ("perplexity", "val_perplexity", 2)):
        before, after = metrics[f"{name}_before"], metrics[f"{name}_after"]
        table.add_row(label, *("not measured" if value is None else f"{value:.{places}f}" for value in (before, after)))
    return table


def _parts_table(summary: RunSummary) -> Table:
    table = Table(title="memory", title_justify="left")
    parties = (summary.placement or {}).get("parties", {})
    holders = {part: name for name, party in parties.items() for part in party["parts"]}
    shows_parties = len(parties) > 1
    for heading in ("part", *(["party"] if shows_parties else []), "holds", "device"):
        table.add_column(heading)
    for heading in ("parameters", "trained", "weights GiB"):
        table.add_column(heading, justify="right")
    for part in summary.parts or []:
        counts = f"{part['num_parameters']:,}", f"{part['num_trainable']:,}", f"{part['weight_bytes'] / GIB:.3f}"
        party = [holders[part["name"]]] if shows_parties else []
        table.add_row(part["name"], *party, part["layers"], part["device"], *counts)
    return table


def _memory_line(summary: RunSummary) -> list[str]:
    """Say what each party's parts took in training, and what was planned, where it was measured."""
    memory = summary.memory or {}
    planned = memory.get("planned_parties") or {}
    taken = [
        f"{party} {format_bytes(size)}" + (f" (planned {format_bytes(planned[party])})" if party in planned else "")
        for party, size in (memory.get("parties") or {}).items()
    ]
    return [f"training took, with gradients, optimizer and kept activations: {', '.join(taken)}"] if taken else []


def _padding_line(metrics: dict[str, Any]) -> list[str]:
    """Say what padding cost, where there was some."""
    num_padding = metrics.get("train_padding_tokens", 0)
    if not num_padding:
        return []
    share = num_padding / (num_padding + metrics["train_tokens"])
    advice = "; data.packing=isolated leaves most of it out" if share > _MUCH_PADDING else ""
    return [f"{num_padding:,} positions of padding were computed beside them, {share:.0%} of all{advice}"]


def _crossing_lines(summary: RunSummary) -> list[str]:
    """Say what passes from one party to another and how much, where there are several."""
    crosses = (summary.placement or {}).get("crosses", {})
    return [
        f"{cut.replace('_', ' ')} is crossed by {', '.join(data)}{_bytes(summary, cut)}"
        for cut, data in crosses.items()
        if data
    ]


def _bytes(summary: RunSummary, cut: str) -> str:
    """Say how many bytes of an optimizer step cross a cut; nothing if they were not counted."""
    counted = (summary.traffic or {}).get(cut)
    if not counted:
        return ""
    up, down = (
        round(sum(counted[f"{payload}_{direction}_bytes_per_step"] for payload in ("activation", "gradient")))
        for direction in ("uplink", "downlink")
    )
    return f": {format_bytes(up)} up and {format_bytes(down)} down a step"


def _link_line(summary: RunSummary) -> list[str]:
    """Say what a step would take over the network that the settings describe, where they describe one."""
    link = summary.link or {}
    if link.get("step_s") is None:
        return []
    mbps, rtt_ms = link["bandwidth_mbps"], link["rtt_ms"] or 0
    over = "any bandwidth" if mbps is None else f"{mbps:g} Mbit/s"
    return [
        f"over {over} with {rtt_ms:g} ms there and back a step would take {link['step_s']:.3g} s, {link['waiting_share']:.0%} "
        "of it waiting for data"
    ]


def _footer(summary: RunSummary) -> str:
    metrics = summary.metrics or {}
    rate = metrics["tokens_per_s"]
    lines = [
        f"peak RAM {metrics['peak_rss_gib']:.2f} GiB (anonymous {metrics['peak_anonymous_gib']:.2f})"
        + (f", peak GPU {metrics['peak_gpu_gib']:.2f} GiB" if metrics["peak_gpu_gib"] else ""),
        *_memory_line(summary),
        f"{metrics['train_tokens']:,} tokens trained in {metrics['train_s']:.0f} s"
        + (f" ({rate:,.0f} tokens/s in the steps)" if rate else ""),
        *_padding_line(metrics),
        *_crossing_lines(summary),
        *_link_line(summary),
        *privacy_in_words(summary.privacy, summary.defence),
        *([f"stopped early: {summary.stopped_early}"] if summary.stopped_early else []),
        f"files: {summary.folder}",
    ]
    return "\n".join(lines)
