"""Building the parts of a causal LM, loading them, and running them together."""

from splitlearn.model.anatomy import count_layers, embedding_width
from splitlearn.model.blueprint import Blueprint, compare_configs, draw_blueprint, plan_cut, read_config
from splitlearn.model.composed import ComposedCausalLM
from splitlearn.model.dtypes import dtype_in_full, loaded_dtype
from splitlearn.model.factory import ModelFactory, save_parts
from splitlearn.model.opening import open_checkpoint
from splitlearn.model.refusals import UnsupportedModelError
from splitlearn.model.request import LoadedParts, ModelRequest, OpenedModel
from splitlearn.model.split_model import SplitModel
from splitlearn.model.ties import Tie, find_ties, tie_parts

__all__ = [
    "Blueprint",
    "ComposedCausalLM",
    "LoadedParts",
    "ModelFactory",
    "ModelRequest",
    "OpenedModel",
    "SplitModel",
    "Tie",
    "UnsupportedModelError",
    "compare_configs",
    "count_layers",
    "draw_blueprint",
    "dtype_in_full",
    "embedding_width",
    "find_ties",
    "loaded_dtype",
    "open_checkpoint",
    "plan_cut",
    "read_config",
    "save_parts",
    "tie_parts",
]
