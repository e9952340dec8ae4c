"""Reckoning what a cut will cost."""

from __future__ import annotations

from dataclasses import replace

from omegaconf import DictConfig

from splitlearn.app.configuration import plain
from splitlearn.app.models import open_model
from splitlearn.app.placing import resolve_placement
from splitlearn.model import dtype_in_full, open_checkpoint
from splitlearn.planning import CutCost, cost_of
from splitlearn.settings import check
from splitlearn.training import parse_dtype


def plan(cfg: DictConfig) -> CutCost:
    """Reckon what a cut will cost; weights are neither read nor downloaded.

    Args:
        cfg: a configuration like ``conf/plan.yaml``.

    Raises:
        CutError: the split points do not cut the model.
        ValueError: a setting or the checkpoint cannot be used.
        FileNotFoundError: a file or folder does not exist.
    """
    check(cfg, "plan")
    placement = resolve_placement(cfg)
    _, config, source, split_plan = open_model(cfg)
    # Nothing is loaded: no part's ties have to be settled by looking at weights.
    dtype, unexpected = parse_dtype(cfg.model.dtype), cfg.model.unexpected_tensors
    loader = open_checkpoint(config, source, dtype, parts=(), unexpected_tensors=unexpected, untie=cfg.model.untie)
    loader.blueprint.check(split_plan)
    cost = cost_of(
        loader,
        split_plan,
        placement.devices,
        cfg.rows,
        cfg.tokens,
        cfg.lora_rank,
        quantization=plain(cfg.model.quantization),
        full_dtype=dtype_in_full(parse_dtype(cfg.model.dtype), loader.blueprint.dtype),
    )
    return replace(cost, model=cfg.model.name_or_path)
