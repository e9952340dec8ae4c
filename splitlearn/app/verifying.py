"""Comparing a checkpoint's parts with the unsplit model."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from splitlearn.app.configuration import naming_settings
from splitlearn.app.models import open_model
from splitlearn.cut import SplitPlan
from splitlearn.settings import check
from splitlearn.verification import Outcome, verify_streamed, verify_whole


@naming_settings()
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
    # The unsplit model that the parts are compared with is not quantized.
    opened = open_model(cfg).revise(quantization=None)
    common: dict[str, Any] = {"num_rows": cfg.rows, "num_tokens": cfg.tokens, "seed": cfg.seed}
    if cfg.streamed:
        return opened.plan, verify_streamed(opened, **common)
    more = {"device": cfg.device, "num_new_tokens": cfg.new_tokens, "gradients": cfg.gradients}
    return opened.plan, verify_whole(opened, **common, **more)
