"""A plan for the eye."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table

from splitlearn.memory import GIB
from splitlearn.planning.costs import METHODS, CutCost, Need
from splitlearn.planning.fit import device_memory, needed_by_device

_HEADINGS = {"load": "loaded, frozen", "lora": "LoRA", "full": "full fine-tuning"}


def print_plan(cost: CutCost) -> None:
    """Print what the parts hold and read, the memory they need, and what crosses the cuts; 1 GiB is 2**30 bytes."""
    Console().print(Group(_parts_table(cost), _memory_table(cost), _traffic(cost)))


def _parts_table(cost: CutCost) -> Table:
    commit = f" at {cost.commit[:12]}" if cost.commit else ""
    title = f"{cost.model}{commit} cut at {cost.split_point_1} / {cost.split_point_2}, {cost.dtype}"
    table = Table(title=title, title_justify="left")
    for heading in ("part", "holds", "device"):
        table.add_column(heading)
    for heading in ("parameters", "weights GiB", "stored GiB", "shards", "to download GiB"):
        table.add_column(heading, justify="right")
    for part in cost.parts:
        stored = "\n".join(f"{size / GIB:.3f} {dtype}" for dtype, size in part.stored_bytes.items())
        figures = f"{part.num_parameters:,}", f"{part.weight_bytes / GIB:.3f}", stored or "0", f"{len(part.shards)}"
        table.add_row(part.part, part.holds, part.device, *figures, f"{part.download_bytes / GIB:.3f}")
    return table


def _memory_table(cost: CutCost) -> Table:
    table = Table(title=f"memory in GiB, for batches of {cost.num_rows} x {cost.num_tokens} tokens", title_justify="left")
    table.add_column("part")
    for heading in _HEADINGS.values():
        table.add_column(heading, justify="right")
    for part in cost.parts:
        table.add_row(part.part, *(_describe(part.needs[method]) for method in METHODS))
    needed = {method: needed_by_device(cost, {part.part: method for part in cost.parts}) for method in METHODS}
    for device in dict.fromkeys(part.device for part in cost.parts):
        available = device_memory(device)
        cells = [f"{needed[method][device] / GIB:.3f}{_verdict(needed[method][device], available)}" for method in METHODS]
        table.add_row(f"{device}, which has {available / GIB:.1f}", *cells)
    table.caption_justify = "left"
    table.caption = (
        f"LoRA: rank {cost.lora_rank} beside all linear layers but the head; full: AdamW; both with what a batch keeps for the "
        "backward pass, without gradient checkpointing. Mapped weights are file pages that the system can take back."
    )
    return table


def _describe(need: Need) -> str:
    bound = "<= " if need.is_upper_bound else "" if need.is_known else ">= "
    own = f"{bound}{need.own_bytes / GIB:.3f}"
    return f"{own} + {need.mapped_bytes / GIB:.3f} mapped" if need.mapped_bytes else own


def _verdict(needed: int, available: int) -> str:
    return " (too much)" if needed > available else ""


def _traffic(cost: CutCost) -> str:
    mib = cost.smashed_bytes / 2**20
    return (
        f"each step sends {mib:.2f} MiB of smashed data over each cut, and {mib:.2f} MiB of gradients back over those below "
        "which anything is trained"
    )
