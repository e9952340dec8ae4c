"""The model that a configuration means, opened once for everything that a command does with it."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from splitlearn.app.configuration import naming_settings, plain
from splitlearn.cut import CutError, SplitPlan
from splitlearn.embedded import resolve_model
from splitlearn.loading import ModelRequest, OpenedModel
from splitlearn.model import count_layers
from splitlearn.planning import choose_cut
from splitlearn.training import parse_dtype


@naming_settings()
def request_of(model: DictConfig) -> ModelRequest:
    """Return which model a configuration from ``conf/model`` means; where it is cut is left open.

    Raises:
        ValueError: the dtype, the quantization or what is done with unexpected tensors is unknown.
        FileNotFoundError: an embedded model is not there.
    """
    return ModelRequest(
        resolve_model(model.name_or_path),
        model_type=model.type,
        revision=model.revision,
        dtype=parse_dtype(model.dtype),
        quantization=plain(model.quantization),
        unexpected_tensors=model.unexpected_tensors,
        untie=model.untie,
    )


def open_model(cfg: DictConfig) -> OpenedModel:
    """Open the model of a configuration with ``model`` and ``split``, cut as it says.

    Raises:
        CutError: the split does not cut this model.
        ValueError: a setting or the checkpoint cannot be used.
        FileNotFoundError: there is no such model.
    """
    opened = request_of(cfg.model).open()
    plan = plan_split(cfg.split, opened)
    return opened.revise(split_point_1=plan.split_point_1, split_point_2=plan.split_point_2)


@naming_settings()
def plan_split(split: DictConfig, opened: OpenedModel) -> SplitPlan:
    """Return the cut that a ``split`` configuration asks for: its points, its fractions of the depth, or one chosen by figures.

    Args:
        split: a configuration from ``conf/split``.
        opened: the model.

    Raises:
        CutError: it does not cut this model, or a point is neither given nor a fraction there for it.
    """
    if split.get("balance") is not None:
        if split.get("point_1") is not None or split.get("point_2") is not None:
            raise CutError("split=auto chooses both points; leave split.point_1 and split.point_2 out, or take split=points")
        return choose_cut(opened.blueprint, split.balance, plain(split.max_gib))
    num_layers = count_layers(opened.config)
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
