"""The model that a configuration means, with its files and its cut."""

from __future__ import annotations

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedConfig

from splitlearn.app.configuration import plain
from splitlearn.checkpoint import CheckpointSource
from splitlearn.cut import CutError, SplitPlan
from splitlearn.embedded import resolve_model
from splitlearn.model import count_layers, draw_blueprint, loaded_dtype, read_config
from splitlearn.planning import choose_cut
from splitlearn.training import parse_dtype


def plan_split(split: DictConfig, config: PreTrainedConfig, source: CheckpointSource, dtype: torch.dtype | None) -> SplitPlan:
    """Return the cut that a ``split`` configuration asks for: its points, its fractions of the depth, or one chosen by figures.

    Args:
        split: a configuration from ``conf/split``.
        config: the model's.
        source: its checkpoint.
        dtype: what floating-point weights become; None takes the configuration's dtype, or else that of the stored weights.

    Raises:
        CutError: it does not cut this model, or a point is neither given nor a fraction there for it.
    """
    if split.get("balance") is not None:
        if split.get("point_1") is not None or split.get("point_2") is not None:
            raise CutError("split=auto chooses both points; leave split.point_1 and split.point_2 out, or take split=points")
        blueprint = draw_blueprint(config, loaded_dtype(config, source, dtype))
        return choose_cut(blueprint, split.balance, plain(split.max_gib))
    num_layers = count_layers(config)
    fractions = split.get("fractions")
    if fractions is not None and (not OmegaConf.is_list(fractions) or len(fractions) != 2):
        raise CutError(f"split.fractions is {fractions}; give two numbers from 0 to 1, such as [0.25, 0.75]")
    by_fraction = SplitPlan.from_fractions(num_layers, *fractions) if fractions is not None else None
    points = []
    for name in ("point_1", "point_2"):
        if split.get(name) is not None:
            points.append(split[name])
        elif by_fraction is not None:
            points.append(getattr(by_fraction, f"split_{name}"))
        else:
            raise CutError(f"split.{name} is not set; give a layer from 0 to {num_layers}, or a named cut such as split=thirds")
    return SplitPlan(num_layers, *points)


def open_model(cfg: DictConfig) -> tuple[str, PreTrainedConfig, CheckpointSource, SplitPlan]:
    """Return a configuration's model by its name, with its configuration, its files and the cut."""
    name = resolve_model(cfg.model.name_or_path)
    config = read_config(name, cfg.model.type, cfg.model.revision)
    source = CheckpointSource(name, cfg.model.revision)
    return name, config, source, plan_split(cfg.split, config, source, parse_dtype(cfg.model.dtype))
