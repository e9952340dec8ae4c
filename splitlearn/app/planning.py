"""Reckoning what a cut will cost."""

from __future__ import annotations

from dataclasses import replace

from omegaconf import DictConfig

from splitlearn.app.configuration import naming_settings, plain
from splitlearn.app.models import open_model
from splitlearn.app.placing import resolve_placement
from splitlearn.boundary import BoundaryCodecs, Link, find_routes
from splitlearn.loading import dtype_in_full
from splitlearn.naming import naming_group
from splitlearn.planning import CutCost, cost_of, least_compute_s
from splitlearn.settings import check
from splitlearn.verification import refuse_non_finite


@naming_settings()
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
    with naming_group("boundary"):
        codecs = BoundaryCodecs.from_plain(plain(cfg.get("boundary")))
        codecs.refuse_unused(find_routes(placement))
    opened = open_model(cfg)
    opened.blueprint.check(opened.plan)
    if cfg.check:
        refuse_non_finite(opened.source, {match.source for match in opened.loader.matches})
    in_full = dtype_in_full(opened.request.dtype, opened.dtype)
    cost = cost_of(opened, placement, cfg.rows, cfg.tokens, cfg.lora_rank, full_dtype=in_full, codecs=codecs)
    link = Link(**(plain(cfg.get("link")) or {}))
    told = None
    if link.is_reckoned:
        compute_s = least_compute_s(opened.blueprint, opened.plan, placement.devices, cfg.rows * cfg.tokens)
        told = link.predict(cost.traffic, compute_s)
    return replace(cost, model=cfg.model.name_or_path, link=told)
