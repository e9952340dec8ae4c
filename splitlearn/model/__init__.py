"""Building the parts of a causal LM, loading them, and running them together."""

from splitlearn.model.anatomy import count_layers, embedding_width
from splitlearn.model.blueprint import Blueprint, compare_configs, draw_blueprint, plan_cut, read_config
from splitlearn.model.chunked_loss import chunked_loss, has_linear_head
from splitlearn.model.composed import ComposedCausalLM
from splitlearn.model.digest import digest, part_digest
from splitlearn.model.dtypes import dtype_in_full, loaded_dtype
from splitlearn.model.factory import ModelFactory, save_parts
from splitlearn.model.parameter_names import fill_parameters, named_parameters, stored_names, trained_parameters
from splitlearn.model.part_loading import PartLoader
from splitlearn.model.passage import Neutral
from splitlearn.model.quantization import (
    count_values,
    is_quantized,
    keep_trainable,
    quantization_config,
    quantized_names,
    stored_bytes,
)
from splitlearn.model.refusals import UnsupportedModelError
from splitlearn.model.request import LoadedParts, ModelRequest, OpenedModel
from splitlearn.model.running import Finished
from splitlearn.model.split_model import PartOutput, SplitModel
from splitlearn.model.ties import Tie, find_ties, tie_parts
from splitlearn.model.unexpected import describe_left_out

__all__ = [
    "Blueprint",
    "ComposedCausalLM",
    "Finished",
    "LoadedParts",
    "ModelFactory",
    "ModelRequest",
    "Neutral",
    "OpenedModel",
    "PartLoader",
    "PartOutput",
    "SplitModel",
    "Tie",
    "UnsupportedModelError",
    "chunked_loss",
    "compare_configs",
    "count_layers",
    "count_values",
    "describe_left_out",
    "digest",
    "draw_blueprint",
    "dtype_in_full",
    "embedding_width",
    "fill_parameters",
    "find_ties",
    "has_linear_head",
    "is_quantized",
    "keep_trainable",
    "loaded_dtype",
    "named_parameters",
    "part_digest",
    "plan_cut",
    "quantization_config",
    "quantized_names",
    "read_config",
    "save_parts",
    "stored_bytes",
    "stored_names",
    "tie_parts",
    "trained_parameters",
]
