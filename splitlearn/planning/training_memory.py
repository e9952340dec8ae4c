"""The memory that a run is reckoned to take by part, to stand beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import torch

from splitlearn.cut import PART_NAMES, PartTraining, Placement
from splitlearn.loading import OpenedModel, dtype_in_full
from splitlearn.planning.activations import Activations, measure_activations
from splitlearn.planning.costs import CutCost, cost_of

# The plan's column for what is trained of a part; it has none for biases and norms.
_METHODS = {PartTraining.FULL: "full", PartTraining.ADAPTERS: "lora", PartTraining.FROZEN: "load"}


def planned_by_party(
    opened: OpenedModel,
    placement: Placement,
    trained: Mapping[str, PartTraining],
    lora_ranks: Mapping[str, int],
    num_rows: int,
    num_tokens: int,
    recomputes_layers: bool = False,
    chunk_tokens: int | None = None,
) -> dict[str, int] | None:
    """Reckon parameters, gradients, optimizer state and kept activations as `cost_of` does, by party.

    What the loss takes for a moment in the backward pass is left out, since nobody keeps it.

    Args:
        opened: the model, cut.
        placement: who holds which part, and on which device.
        trained: which tensors of each part are trained.
        lora_ranks: rank of the adapters of each part that has some.
        num_rows: rows of a batch (B).
        num_tokens: tokens of a row (T).
        recomputes_layers: whether layers keep only their inputs for the backward pass.
        chunk_tokens: for how many positions logits are in memory at a time; None for all.

    Returns:
        Bytes by party; None where there is no reckoning: for biases or norms alone, adapters other than LoRA, and models that
        cannot run without values.
    """
    if not all(
        what in _METHODS and (what is not PartTraining.ADAPTERS or part in lora_ranks) for part, what in trained.items()
    ):
        return None
    in_full = dtype_in_full(opened.request.dtype, opened.dtype)
    lowest = next((index for index, part in enumerate(PART_NAMES) if trained[part].trains_anything), len(PART_NAMES))

    @cache
    def cost(rank: int) -> CutCost:
        return cost_of(opened, placement, num_rows, num_tokens, rank, with_activations=False, full_dtype=in_full)

    @cache
    def kept(dtype: torch.dtype, rank: int | None) -> Activations | None:
        blueprint = replace(opened.blueprint, dtype=dtype)
        measured = measure_activations(blueprint, num_rows, num_tokens, rank, chunk_tokens)
        if measured is None or not recomputes_layers:
            return measured
        layer_bytes = cost(1).smashed_bytes // opened.dtype.itemsize * dtype.itemsize
        return replace(measured, layers=(layer_bytes,) * len(measured.layers))

    totals: dict[str, int] = {}
    for index, part in enumerate(opened.plan.parts):
        method, rank = _METHODS[trained[part.name]], lora_ranks.get(part.name, 0)
        need = cost(rank).parts[index].needs[method]
        size = need.own_bytes + need.mapped_bytes
        # A frozen part above a trained one keeps activations too, since gradients pass it.
        if index >= lowest:
            activations = kept(in_full, None) if method == "full" else kept(opened.dtype, rank)
            if activations is None:
                return None
            size += replace(activations, temporary=0).of(part)
        holder = placement.holder(part.name)
        totals[holder] = totals.get(holder, 0) + size
    return totals
