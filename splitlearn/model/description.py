"""The description of a part in its file: which part of which model it is, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from splitlearn.checkpoint import CheckpointError, parse_config, refuse_kernels
from splitlearn.cut import PartSpec
from splitlearn.model.blueprint import Blueprint, Origin, draw_blueprint
from splitlearn.model.refusals import UnsupportedModelError
from splitlearn.redaction import reason_of


def describe_part(blueprint: Blueprint, spec: PartSpec) -> dict[str, Any]:
    """Return the plain values from which `read_description` draws a part's blueprint again.

    Args:
        blueprint: the unsplit model's structure.
        spec: which part it is.
    """
    generation = blueprint.generation_config
    return {
        "config": blueprint.config.to_json_string(use_diff=False),
        "attn_implementation": blueprint.config._attn_implementation,
        "generation_config": json.dumps(generation.to_dict()) if generation else "",
        "name": spec.name,
        "start": spec.start,
        "end": spec.end,
        "num_layers": spec.num_layers,
        "dtype": str(blueprint.dtype).removeprefix("torch."),
        "unsettled_ties": sorted(blueprint.unsettled_ties),
        "origin": asdict(blueprint.origin) if blueprint.origin else {},
    }


def read_description(
    description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], path: str | Path
) -> tuple[Blueprint, PartSpec]:
    """Draw the blueprint of a part that was read from a file.

    Args:
        description: the values that `describe_part` returned.
        tensors: the part's tensors, which have the dtype of its blueprint.
        path: the file, for messages.

    Returns:
        The unsplit model's structure, and which part of it the file holds.

    Raises:
        CheckpointError: a value is missing or unusable.
        UnsupportedModelError: the installed transformers cannot build the model.
    """
    try:
        refuse_kernels(dict(description), str(path))
        # JSON has no infinities: transformers writes them as objects.
        config = AutoConfig.for_model(
            **PreTrainedConfig._decode_special_floats(parse_config(description["config"], f"the configuration in {path}"))
        )
        config._attn_implementation = description["attn_implementation"]
        generation = description.get("generation_config")
        generation_config = (
            GenerationConfig(**parse_config(generation, f"the generation settings in {path}")) if generation else None
        )
        origin = Origin(**description["origin"]) if description.get("origin") else None
        unsettled = frozenset(description.get("unsettled_ties", ()))
        spec = PartSpec(*(description[name] for name in ("name", "start", "end", "num_layers")))
    except CheckpointError:
        raise
    except Exception as error:
        # Configuration classes compute with the values in the file, so a bad value can raise any exception.
        raise CheckpointError(f"{path} does not say which part it is ({reason_of(error)}); save the part again") from error
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.get_default_dtype())
    try:
        drawn = draw_blueprint(config, dtype, generation_config, origin)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{path} cannot be read: {error}") from error
    return replace(drawn, unsettled_ties=unsettled & drawn.ties.keys()), spec
