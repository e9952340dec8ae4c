"""Whether this machine has the memory that a cut needs, and remedies if it has not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

from splitlearn.cut import CutError, PartTraining
from splitlearn.memory import format_bytes
from splitlearn.naming import named
from splitlearn.planning.costs import ELSEWHERE, METHODS, CutCost, Need

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_DOING = {"load": "loading", "lora": "LoRA fine-tuning", "full": "full fine-tuning"}


class DoesNotFitError(CutError):
    """A cut for which this machine lacks memory: the message says how much it needs and has, and names remedies."""


def device_memory(device: str) -> int:
    """Return a device's total memory in bytes: RAM within the container's limit, or a GPU's.

    Args:
        device: ``"cpu"`` or ``"cuda:N"``.

    Raises:
        RuntimeError: torch knows no such GPU.
    """
    if device != "cpu":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = [int(text) for path in _CGROUP_LIMITS if path.is_file() and (text := path.read_text().strip()).isdigit()]
    return min([psutil.virtual_memory().total, *limits])


def least_methods(trained: Mapping[str, PartTraining]) -> dict[str, str]:
    """Return for each part the method whose need is a lower bound: adapters and small tensors add little to loading.

    Args:
        trained: which tensors of each part are trained.

    Returns:
        ``"full"`` or ``"load"`` for each part.
    """
    return {name: "full" if training.trains_all_weights else "load" for name, training in trained.items()}


def needed_by_device(cost: CutCost, methods: Mapping[str, str]) -> dict[str, int]:
    """Return the bytes that each device must have available when each part is used as ``methods`` says.

    Args:
        cost: the cost of the cut.
        methods: for each part ``"load"``, ``"lora"`` or ``"full"``.
    """
    needed: dict[str, int] = {}
    for part in cost.parts:
        if part.device == ELSEWHERE:
            continue
        need: Need = part.needs[methods[part.part]]
        needed[part.device] = needed.get(part.device, 0) + need.own_bytes
    return needed


def check_fit(cost: CutCost, methods: Mapping[str, str]) -> None:
    """Refuse a plan that cannot fit into this machine's memory, even if nothing else runs on it.

    Args:
        cost: the cost of the cut.
        methods: for each part ``"load"``, ``"lora"`` or ``"full"``.

    Raises:
        DoesNotFitError: it does not fit.
    """
    for device, needed in needed_by_device(cost, methods).items():
        available = device_memory(device)
        if needed > available:
            doing = " and ".join(_DOING[method] for method in METHODS if method in methods.values())
            raise DoesNotFitError(
                f"{doing} of {cost.model} cut at {cost.split_point_1} / {cost.split_point_2} in {cost.dtype} needs "
                f"{format_bytes(needed)} on {device}, which has {format_bytes(available)}: "
                f"{'; '.join(_ways_out(cost, methods, device, available))}"
            )


def _ways_out(cost: CutCost, methods: Mapping[str, str], device: str, available: int) -> list[str]:
    there = [part.part for part in cost.parts if part.device == device]
    others = {way: dict.fromkeys(methods, method) for method, way in (("lora", "with LoRA"), ("load", "all frozen"))}
    others |= {f"with {name} frozen": {**methods, name: "load"} for name in there if methods[name] == "full"}
    ways = [
        f"{way} it needs {format_bytes(needed)}"
        for way, other_methods in others.items()
        if (needed := needed_by_device(cost, other_methods)[device]) <= available
    ]
    if cost.dtype == "float32" or (cost.full_dtype == "float32" and "full" in methods.values()):
        ways.append(f"{named('dtype')}=bfloat16 halves it")
    if len(there) < len(cost.parts):
        fewer = f"split points that leave fewer layers to {' and '.join(there)} lessen it"
        ways.append(f"{fewer} (those that are chosen automatically keep {named('max_gib')})")
    ways.append("parts can go elsewhere with device_map")
    return ways
