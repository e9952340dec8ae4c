"""Comparing a checkpoint's parts with the unsplit model."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from splitlearn.app.models import open_model
from splitlearn.cut import SplitPlan
from splitlearn.settings import check
from splitlearn.training import parse_dtype
from splitlearn.verification import Outcome, verify_streamed, verify_whole


def verify(cfg: DictConfig) -> tuple[SplitPlan, list[Outcome]]:
    """Compare a checkpoint's parts with the unsplit model.

    Args:
        cfg: a configuration like ``conf/verify.yaml``.

    Returns:
        The cut, and one outcome for each comparison.

    Raises:
        CutError: the split points do not cut the model.
        ValueError: a setting or the checkpoint cannot be used.
        FileNotFoundError: a file or folder does not exist.
    """
    check(cfg, "verify")
    if cfg.streamed and cfg.device != "cpu":
        raise ValueError(f"device is {cfg.device}, but streamed layers are compared on the CPU; leave device=cpu")
    name, config, _, plan = open_model(cfg)
    common: dict[str, Any] = {"num_rows": cfg.rows, "num_tokens": cfg.tokens, "seed": cfg.seed}
    common["revision"] = cfg.model.revision
    common["dtype"] = parse_dtype(cfg.model.dtype)
    common["unexpected_tensors"] = cfg.model.unexpected_tensors
    common["untie"] = cfg.model.untie
    if cfg.streamed:
        return plan, verify_streamed(name, config, plan, **common)
    more = {"device": cfg.device, "num_new_tokens": cfg.new_tokens, "gradients": cfg.gradients}
    return plan, verify_whole(name, config, plan, **common, **more)
