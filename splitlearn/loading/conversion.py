"""Filling a part through transformers' own loader, which knows every architecture's conversions and exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from splitlearn.checkpoint import CheckpointError, name_some
from splitlearn.model import Blueprint
from splitlearn.silence import silent_transformers


def fill_by_conversion(
    model: PreTrainedModel, blueprint: Blueprint, tensors: Mapping[str, Any], quantization: Any, place: str
) -> None:
    """Fill a part from tensors that are renamed, merged, cast or quantized on the way.

    Args:
        model: the part on the meta device; it is filled in place.
        blueprint: the unsplit model's structure.
        tensors: the checkpoint's tensors, perhaps lazy, under the names that a model of just the part's layers would have.
        quantization: transformers' configuration for this part; None quantizes nothing.
        place: checkpoint and part, for messages.

    Raises:
        CheckpointError: the loader fails, or finds tensors missing, unexpected or of another shape.
    """
    convert(_class_that_makes(model), blueprint.config, blueprint.dtype, tensors, quantization, place)


def convert(
    model_class: Any, config: PreTrainedConfig, dtype: torch.dtype, tensors: Mapping[str, Any], quantization: Any, place: str
) -> Any:
    """Have transformers' loader make a model and fill it.

    Args:
        model_class: transformers' class of the model.
        config: the model's configuration.
        dtype: dtype of floating-point weights.
        tensors: the checkpoint's tensors, perhaps lazy, under the names that the model's own checkpoint would have.
        quantization: transformers' configuration; None quantizes nothing.
        place: checkpoint and model, for messages.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: the loader fails, or finds tensors missing, unexpected or of another shape.
    """
    try:
        with silent_transformers():
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=dtype,
                attn_implementation=config._attn_implementation,
                output_loading_info=True,
                quantization_config=quantization,
            )
    except RuntimeError as error:
        raise CheckpointError(f"{place} cannot be filled: {error}") from error
    for kind in ("missing", "unexpected", "mismatched"):
        names = [str(name) for name in info.get(f"{kind}_keys", ())]
        if names:
            raise CheckpointError(f"{place} was loaded with {kind} tensors: {name_some(names)}")
    return model


def _class_that_makes(model: PreTrainedModel) -> Any:
    """Return a class for transformers' loader to fill whose only instance is ``model``."""
    whole = type(model)
    # __new__ returns an instance of the parent class and not of this one, so Python does not call __init__ on it again.
    namespace = {"__new__": lambda cls, *args, **kwargs: model, "__module__": whole.__module__}
    return type(whole.__name__, (whole,), namespace)
