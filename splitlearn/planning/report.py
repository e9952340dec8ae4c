"""Printing a plan as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table

from splitlearn.boundary import PAYLOADS, Direction
from splitlearn.loading import describe_left_out
from splitlearn.memory import format_bytes
from splitlearn.planning.costs import METHODS, CutCost, Need
from splitlearn.planning.fit import device_memory, needed_by_device
from splitlearn.terminal import make_console

_PAYLOADS = {"activation": "smashed data", "gradient": "gradients"}
_HEADINGS = {"load": "loaded, frozen", "lora": "LoRA", "full": "full fine-tuning"}


def print_plan(cost: CutCost) -> None:
    """Print the parts' layers and files, the memory they need and who holds them, and the bytes over the cuts.

    1 GiB is 2**30 bytes.

    Args:
        cost: the cost of the cut.
    """
    left_out = [describe_left_out(cost.left_out)] if cost.left_out else []
    make_console().print(Group(_parts_table(cost), _memory_table(cost), _traffic_table(cost), *left_out))


def _parts_table(cost: CutCost) -> Table:
    commit = f" at {cost.commit[:12]}" if cost.commit else ""
    in_full = "" if cost.full_dtype == cost.dtype else f" ({cost.full_dtype} in full fine-tuning)"
    title = f"{cost.model}{commit} cut at {cost.split_point_1} / {cost.split_point_2}, {cost.dtype}{in_full}"
    if cost.quantization is not None:
        how = cost.quantization if isinstance(cost.quantization, str) else cost.quantization.get("quant_method")
        title += f", {how} where frozen"
    table = Table(title=title, title_justify="left")
    for heading in ("part", "holds", "device"):
        table.add_column(heading)
    is_remote = any(part.download_bytes for part in cost.parts)
    for heading in ("parameters", "weights", "stored", "shards", *(["to download"] if is_remote else [])):
        table.add_column(heading, justify="right")
    for part in cost.parts:
        stored = "\n".join(f"{format_bytes(size)} {dtype}" for dtype, size in part.stored_bytes.items())
        row = [part.part, part.holds, part.device, _count(part.num_parameters), format_bytes(part.weight_bytes)]
        row += [stored or "0", f"{len(part.shards)}", *([format_bytes(part.download_bytes)] if is_remote else [])]
        table.add_row(*row)
    return table


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _memory_table(cost: CutCost) -> Table:
    table = Table(title=f"memory, with batches of {cost.num_rows} x {cost.num_tokens} tokens", title_justify="left")
    table.add_column("")
    for heading in _HEADINGS.values():
        table.add_column(heading, justify="right")
    is_divided = len(set(cost.parties.values())) > 1
    for part in cost.parts:
        holder = f" ({cost.parties[part.part]})" if is_divided else ""
        table.add_row(f"{part.part}{holder}", *(_describe(part.needs[method]) for method in METHODS))
    table.add_section()
    needed = {method: needed_by_device(cost, {part.part: method for part in cost.parts}) for method in METHODS}
    for device in dict.fromkeys(part.device for part in cost.parts):
        available = device_memory(device)
        cells = [format_bytes(needed[method][device]) + _verdict(needed[method][device], available) for method in METHODS]
        table.add_row(f"{device} of {format_bytes(available)}", *cells)
    table.caption_justify = "left"
    table.caption = (
        f"LoRA: rank {cost.lora_rank} beside all linear layers but the head. Full: AdamW. Both with what a batch keeps for the "
        "backward pass. Mapped: pages of the checkpoint's files, which the system can take back."
    )
    return table


def _describe(need: Need) -> str:
    bound = "" if need.is_known else "more than "
    own = f"{'at most ' if need.is_upper_bound else bound}{format_bytes(need.own_bytes)}"
    if not need.mapped_bytes:
        return own
    mapped = f"{format_bytes(need.mapped_bytes)} mapped"
    return f"{own}, {mapped}" if need.own_bytes else mapped


def _verdict(needed: int, available: int) -> str:
    return ", too much" if needed > available else ""


def _traffic_table(cost: CutCost) -> Table:
    table = Table(title="sent in a step, if all parts are trained", title_justify="left", caption_justify="left")
    table.add_column("")
    for direction in Direction:
        table.add_column(direction.value, justify="right")
    is_encoded = any(codec != "exact" for ways in cost.codecs.values() for codec in ways.values())
    if is_encoded:
        table.add_column("codecs")
    for cut, counts in cost.traffic.items():
        cells = []
        for direction in Direction:
            sizes = {payload: counts[f"{payload}_{direction}_bytes"] for payload in PAYLOADS}
            sent = [f"{format_bytes(size)} {_PAYLOADS[payload]}" for payload, size in sizes.items() if size]
            cells.append("\n".join(sent) or "nothing")
        ways = [f"{way}: {codec}" for way, codec in cost.codecs[cut].items()] if is_encoded else []
        table.add_row(cut.replace("_", " "), *cells, *(["\n".join(ways)] if ways else []))
    table.caption = (
        "Uplink: from the data's owner to a server. Labels that are sent count as smashed data. Masks and positions, which not "
        "every batch has, are not counted."
    )
    if cost.link is not None:
        table.caption += f" {_link_sentences(cost.link)}"
    return table


def _link_sentences(link: Mapping[str, Any]) -> str:
    mbps = "any bandwidth" if link["bandwidth_mbps"] is None else f"{link['bandwidth_mbps']:g} Mbit/s"
    return (
        f"Over {mbps} with {link['rtt_ms'] or 0:g} ms there and back they take {link['link_s']:.3g} s. Computing takes at "
        f"least {link['compute_s']:.3g} s here, so a step takes at least {link['step_s']:.3g} s, of which at most "
        f"{link['waiting_share']:.0%} is waiting for data to come."
    )
