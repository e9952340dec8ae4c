"""Cutting one part out of a whole causal LM that was built on the meta device.

The model is built from its full configuration, so that every layer is made with its true index (patterns of dense and
expert layers, sliding windows and scalings depend on it). Then only the part's layers are kept, and everything outside the
layers gets a configuration that describes just those. transformers' own ``forward`` makes masks, rotary embeddings and caches
for them.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from splitlearn.cut import PartSpec
from splitlearn.model.anatomy import Anatomy, count_layers
from splitlearn.model.passage import Neutral, Passage, Threshold
from splitlearn.model.trial_call import owns_something

_LAYER_INDEX_ATTRIBUTES = ("layer_idx", "layer_id", "layer_index", "layer_number")
_LAYER_COUNT_ATTRIBUTES = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "num_decoder_layers")


def slice_config(config: PreTrainedConfig, start: int, end: int) -> PreTrainedConfig:
    """Return a copy of ``config`` that describes only the layers ``[start, end)``.

    Every list with one entry for each layer is sliced too, whether it is stored or computed by the configuration's class. The
    values are written past the configuration's own checks, which would refuse, for example, a slice of a layer pattern.

    Args:
        config: the unsplit model's configuration; it is left as it is.
        start: first layer to keep.
        end: one past the last.
    """
    num_layers = count_layers(config)
    sliced = copy.deepcopy(config)
    text = sliced.get_text_config(decoder=True)
    # get_text_config may return the configuration itself, one of its own, or (for encoder-decoders) a new object.
    for own in {id(sliced): sliced, id(text): text}.values():
        _keep_slice(own, num_layers, start, end)
    return sliced


def _keep_slice(config: PreTrainedConfig, num_layers: int, start: int, end: int) -> None:
    computed = _computed_lists(config, num_layers)
    values = config.__dict__
    for name, value in list(values.items()):
        # A list of token ids may have as many entries as there are layers by chance.
        if isinstance(value, (list, tuple)) and len(value) == num_layers and not name.endswith("token_id"):
            values[name] = type(value)(value[start:end])
        elif name in _LAYER_COUNT_ATTRIBUTES and value == num_layers:
            values[name] = end - start
    if computed:
        # Properties live in the class, so a subclass overrides them with the slices.
        namespace = {name: value[start:end] for name, value in computed.items()}
        config.__class__ = type(type(config).__name__, (type(config),), {"__module__": type(config).__module__, **namespace})


def _computed_lists(config: PreTrainedConfig, num_layers: int) -> dict[str, list[Any] | tuple[Any, ...]]:
    """Return the properties with one entry for each layer: computed anew for a slice, their pattern would start over."""
    computed = {}
    # Skip the base class: its properties describe no layers, and reading deprecated ones warns.
    own = set(dir(type(config))) - set(dir(PreTrainedConfig))
    for name in sorted(own):
        if isinstance(inspect.getattr_static(type(config), name), property):
            value = getattr(config, name, None)
            if isinstance(value, (list, tuple)) and len(value) == num_layers:
                computed[name] = value
    return computed


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
                sliced[id(config)] = slice_config(config, part.start, part.start + len(layers))
            module.config = sliced[id(config)]  # type: ignore[assignment]  # torch types attributes as tensors and modules
        for name in _LAYER_COUNT_ATTRIBUTES:
            if getattr(module, name, None) == part.num_layers:
                setattr(module, name, len(layers))


def _still_randomness_before_layers(model: PreTrainedModel, anatomy: Anatomy) -> None:
    """Turn off functional dropout before the layers, which is the bottom's: it would draw numbers ahead of the layers."""
    steps = anatomy.layers_path.split(".")
    for depth in range(1, len(steps)):
        module = model.get_submodule(".".join(steps[:depth]))
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _drop_foreign_modules(model: Any, part: PartSpec, anatomy: Anatomy) -> None:
    if not part.has_embedding:
        _still_randomness_before_layers(model, anatomy)
        for path in anatomy.before_layers:
            # Modules without weights, such as rotary embeddings, stay: the layers of every part need them.
            if owns_something(model.get_submodule(path)):
                anatomy.replace(model, path, Neutral())
    if not part.has_head:
        for path in anatomy.after_layers:
            module = model.get_submodule(path)
            # A rotary embedding that did not run in the trial call keeps its attributes: the model reads from them which kinds
            # of layers it serves.
            anatomy.replace(model, path, Neutral(None if owns_something(module) else module))
    for module in (model, anatomy.base(model)):
        # transformers would initialise, tie, or require gradients of the modules that these return.
        if not part.has_embedding:
            module.get_input_embeddings = _nothing  # type: ignore[method-assign]
        if not part.has_head:
            module.get_output_embeddings = _nothing  # type: ignore[method-assign]


def _nothing() -> None:
    return None


def cut_out(whole: PreTrainedModel, part: PartSpec, anatomy: Anatomy) -> tuple[PreTrainedModel, Passage]:
    """Make one part of a whole causal LM.

    Args:
        whole: a causal LM built from its full configuration, on the meta device; it is left as it is.
        part: the part to make.
        anatomy: where the model's layers are, from `examine`.

    Returns:
        The part, on the meta device, and the passage through which smashed data enter and leave its layers.
    """
    model, kept = _copy_without_foreign_layers(whole, part, anatomy)
    _rebase_layer_indices(kept, part.start)
    _describe_only_kept_layers(model, kept, part)
    _drop_foreign_modules(model, part, anatomy)
    # transformers must not tie within a part: `tie_parts` ties bottom and top where both are held.
    _forget_ties(model)
    passage = Passage()
    passage.prepend_router_logits(anatomy.base(model))
    for module in _dropping_modules(model, anatomy):
        passage.allow_layerdrop(module)
    for layer in kept:
        passage.carry_through(layer)
    if part.has_head:
        for path in anatomy.after_layers:
            if path in anatomy.after_in_base:
                passage.carry_through(model.get_submodule(path))
    return model, passage


def _copy_without_foreign_layers(
    whole: PreTrainedModel, part: PartSpec, anatomy: Anatomy
) -> tuple[PreTrainedModel, nn.ModuleList]:
    layers = anatomy.layers(whole)
    own_layers: list[nn.Module] = list(layers)[part.start : part.end]
    # A bottom without layers needs a stand-in to catch the input of the first layer. With LayerDrop there is none, since the
    # model would draw a random number for it.
    if part.has_embedding and not own_layers and not _dropping_modules(whole, anatomy):
        own_layers = [Threshold(layers[0])]
    # deepcopy takes the entries of its memo as copies already made: parameters are not copied, since loading replaces them, and
    # the layer list is replaced by one of the kept layers.
    memo: dict[int, Any] = {id(parameter): parameter for parameter in whole.parameters()}
    kept = nn.ModuleList(copy.deepcopy(layer, memo) for layer in own_layers)
    memo[id(layers)] = kept
    return copy.deepcopy(whole, memo), kept


def _dropping_modules(model: PreTrainedModel, anatomy: Anatomy) -> list[nn.Module]:
    """Return the modules on the way to the layers that may draw a random number before each of them, to leave it out."""
    steps = anatomy.layers_path.split(".")
    way = [model.get_submodule(".".join(steps[:depth])) for depth in range(1, len(steps))]
    return [module for module in way if hasattr(module, "layerdrop")]


def _forget_ties(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module._tied_weights_keys = None  # type: ignore[assignment]  # transformers leaves its own None untyped
            module.all_tied_weights_keys = {}
