"""Building the parts of a causal LM and running them together."""

from splitlearn.model.anatomy import count_layers, embedding_width
from splitlearn.model.blueprint import Blueprint, Origin, compare_configs, draw_blueprint, plan_cut, untie
from splitlearn.model.chunked_loss import chunked_loss, has_linear_head
from splitlearn.model.composed import ComposedCausalLM
from splitlearn.model.digest import digest, part_digest
from splitlearn.model.embedding_noise import EMBEDDING_NOISE, EmbeddingNoise, draw_noise, nearest_tokens
from splitlearn.model.modes import evaluating
from splitlearn.model.parameter_names import fill_parameters, named_parameters, stored_names, trained_parameters
from splitlearn.model.part_call import PartOutput
from splitlearn.model.passage import Neutral
from splitlearn.model.quantized import count_values, is_quantized, keep_trainable, raw_tensors, stored_bytes
from splitlearn.model.refusals import UnsupportedModelError
from splitlearn.model.running import Arriving, Finished, TopRequest
from splitlearn.model.sessions import GenerationSession, LocalSession
from splitlearn.model.split_model import SplitModel
from splitlearn.model.surgery import cut_out
from splitlearn.model.tensors import put_tensor
from splitlearn.model.ties import Tie, become_equal, ends_elsewhere, find_ties, tie_parts

__all__ = [
    "EMBEDDING_NOISE",
    "Arriving",
    "Blueprint",
    "ComposedCausalLM",
    "EmbeddingNoise",
    "Finished",
    "GenerationSession",
    "LocalSession",
    "Neutral",
    "Origin",
    "PartOutput",
    "SplitModel",
    "Tie",
    "TopRequest",
    "UnsupportedModelError",
    "become_equal",
    "chunked_loss",
    "compare_configs",
    "count_layers",
    "count_values",
    "cut_out",
    "digest",
    "draw_blueprint",
    "draw_noise",
    "embedding_width",
    "ends_elsewhere",
    "evaluating",
    "fill_parameters",
    "find_ties",
    "has_linear_head",
    "is_quantized",
    "keep_trainable",
    "named_parameters",
    "nearest_tokens",
    "part_digest",
    "plan_cut",
    "put_tensor",
    "raw_tensors",
    "stored_bytes",
    "stored_names",
    "tie_parts",
    "trained_parameters",
    "untie",
]
