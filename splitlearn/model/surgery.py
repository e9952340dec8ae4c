"""Cutting one part out of a whole causal LM that was built on the meta device.

The model is built from its full configuration, so that every layer is made with its true index (patterns of dense and
expert layers, sliding windows and scalings depend on it); then only the part's layers are kept and everything outside the
layers is told of a model that has just those. transformers' own ``forward`` then makes masks, rotary embeddings and caches.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from splitlearn.cut import PartSpec
from splitlearn.model.anatomy import Anatomy
from splitlearn.model.entrance import Entrance, Neutral

_LAYER_INDEX_ATTRIBUTES = ("layer_idx", "layer_id", "layer_index", "layer_number")
_LAYER_COUNT_ATTRIBUTES = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


def slice_config(config: PreTrainedConfig, start: int, end: int) -> PreTrainedConfig:
    """Return a copy of ``config`` that describes only the layers ``[start, end)``.

    Every list with one entry for each layer is sliced along. The values are written past the configuration's own checks,
    which would refuse, for example, a slice of a layer pattern.
    """
    sliced = copy.deepcopy(config)
    text = sliced.get_text_config(decoder=True)
    num_layers = text.num_hidden_layers
    values = text.__dict__
    for name, value in list(values.items()):
        if isinstance(value, (list, tuple)) and len(value) == num_layers and not name.endswith("token_id"):
            values[name] = type(value)(value[start:end])
    values[text.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = end - start
    return sliced


def _rebase_layer_indices(layers: nn.ModuleList, start: int) -> None:
    for module in layers.modules():
        for name in _LAYER_INDEX_ATTRIBUTES:
            index = getattr(module, name, None)
            if isinstance(index, int) and not isinstance(index, bool):
                setattr(module, name, index - start)


def _describe_only_kept_layers(model: PreTrainedModel, layers: nn.ModuleList, part: PartSpec) -> None:
    inside = set(layers.modules())
    sliced: dict[int, PreTrainedConfig] = {}
    for module in model.modules():
        if module in inside:
            continue
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            if id(config) not in sliced:
                sliced[id(config)] = slice_config(config, part.start, part.end)
            module.config = sliced[id(config)]
        for name in _LAYER_COUNT_ATTRIBUTES:
            if getattr(module, name, None) == part.num_layers:
                setattr(module, name, part.end - part.start)


def _owns_something(module: nn.Module) -> bool:
    is_random = any(isinstance(each, nn.Dropout) for each in module.modules())
    return is_random or any(True for _ in module.parameters())


def _drop_foreign_modules(model: PreTrainedModel, part: PartSpec, anatomy: Anatomy) -> None:
    decoder = anatomy.decoder(model)
    if not part.has_embedding:
        for name in anatomy.before_layers:
            # Rotary embeddings own nothing and are needed by the layers of every part.
            if _owns_something(getattr(decoder, name)):
                setattr(decoder, name, Neutral())
    if not part.has_head:
        for name in anatomy.after_layers:
            setattr(decoder, name, Neutral())
        for name, _ in list(model.named_children()):
            if name != anatomy.base_name:
                setattr(model, name, None)


def cut_out(whole: PreTrainedModel, part: PartSpec, anatomy: Anatomy) -> tuple[PreTrainedModel, Entrance | None]:
    """Make one part of a whole causal LM.

    Args:
        whole: a causal LM built from its full configuration, on the meta device; it is left as it is.
        part: the part to make.
        anatomy: where the model's layers are, from `examine`.

    Returns:
        The part, on the meta device, and where smashed data enter it (None for a bottom, which takes token ids).
    """
    model, kept = _copy_without_foreign_layers(whole, part, anatomy)
    decoder = anatomy.decoder(model)
    _rebase_layer_indices(kept, part.start)
    _describe_only_kept_layers(model, kept, part)
    _drop_foreign_modules(model, part, anatomy)
    # No part owns both ends of a tie; whoever holds bottom and top ties them.
    _forget_ties(model)
    if part.has_embedding:
        return model, None
    entrance = Entrance()
    for receiver in [*kept, *(getattr(decoder, name) for name in anatomy.after_layers)]:
        entrance.attach(receiver)
    return model, entrance


def _copy_without_foreign_layers(
    whole: PreTrainedModel, part: PartSpec, anatomy: Anatomy
) -> tuple[PreTrainedModel, nn.ModuleList]:
    layers = anatomy.layers(whole)
    # deepcopy takes what its memo holds as copies already made: the parameters themselves, which loading replaces anyway, and
    # for the layer list one of the kept layers.
    memo: dict[int, Any] = {id(parameter): parameter for parameter in whole.parameters()}
    kept = nn.ModuleList(copy.deepcopy(layer, memo) for layer in list(layers)[part.start : part.end])
    memo[id(layers)] = kept
    return copy.deepcopy(whole, memo), kept


def _forget_ties(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module._tied_weights_keys = None
            module.all_tied_weights_keys = {}
