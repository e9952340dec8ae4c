"""Where the decoder layers of a transformers causal LM are, and which modules run before and after them.

Nothing here knows an architecture. The layers are the module list as long as the configuration says. The modules that run
before them are found by calling the model once with stand-ins for its modules and stopping at the first layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from splitlearn.model.refusals import (
    UnsupportedModelError,
    refuse_loose_parameters,
    refuse_more_than_text,
    refuse_second_stream,
    refuse_unlike_layers,
    refuse_what_no_inspection_shows,
    refuse_without_embeds,
)
from splitlearn.model.trial_call import run_to_layers


@dataclass(frozen=True)
class Anatomy:
    """Where the layers of a causal LM are and which modules stand around them.

    The way to the layers leads from the causal LM over its base model to the layer list; every module beside that way runs
    before the first layer or after the last. Paths are dotted and relative to the causal LM.

    Attributes:
        base_name: attribute of the causal LM that holds the base model (all but the head).
        layers_path: path of the layer list.
        before_layers: paths of the modules beside the way that run before the first layer.
        after_layers: paths of the modules beside the way that do not, the head among them.
    """

    base_name: str
    layers_path: str
    before_layers: tuple[str, ...]
    after_layers: tuple[str, ...]

    @property
    def after_in_base(self) -> tuple[str, ...]:
        """Paths of the modules of the base model that run after its layers."""
        return tuple(path for path in self.after_layers if path.startswith(f"{self.base_name}."))

    def base(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the base model: the causal LM without its head.

        Args:
            model: the causal LM, or a part of it.
        """
        return getattr(model, self.base_name)

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """Return the list of decoder layers.

        Args:
            model: the causal LM, or a part of it.

        Raises:
            TypeError: the module at `layers_path` is no list.
        """
        layers = model.get_submodule(self.layers_path)
        if not isinstance(layers, nn.ModuleList):
            raise TypeError(f"{self.layers_path} is not a module list")
        return layers

    def replace(self, model: PreTrainedModel, path: str, module: nn.Module | None) -> None:
        """Replace a module of a causal LM.

        Args:
            model: the causal LM; it is changed in place.
            path: dotted path of the module to replace.
            module: the new module; None leaves the place empty.
        """
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, module)


# Names by which configurations give the number of decoder layers, the most specific first: encoder-decoders have two numbers.
_LAYER_COUNTS = ("decoder_layers", "num_decoder_layers", "num_hidden_layers")


def count_layers(config: PreTrainedConfig) -> int:
    """Return how many decoder layers a causal LM of this configuration has.

    Args:
        config: the configuration of the unsplit model, or of a model that contains it.

    Raises:
        UnsupportedModelError: the configuration does not give a number of layers.
    """
    text = config.get_text_config(decoder=True)
    counts = [getattr(text, name) for name in _LAYER_COUNTS if isinstance(getattr(text, name, None), int)]
    if not counts:
        raise UnsupportedModelError(f"the configuration of {config.model_type} does not say how many decoder layers there are")
    return counts[0]


def _find_layers(model: PreTrainedModel) -> str:
    num_layers = count_layers(model.config)
    candidates = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers and "." in path
    ]
    if not candidates:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no module list of {num_layers} decoder layers, so it cannot be cut"
        )
    # The outermost list is the decoder's; lists inside a layer (experts, say) lie deeper.
    outermost = min(path.count(".") for path in candidates)
    lists = [path for path in candidates if path.count(".") == outermost]
    if len(lists) > 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} spreads its layers over several lists ({', '.join(lists)}), so it cannot be cut"
        )
    return lists[0]


def _beside_the_way(model: PreTrainedModel, layers_path: str) -> dict[str, nn.Module]:
    """Return the modules beside the way from the causal LM to its layers, by path."""
    steps = layers_path.split(".")
    beside: dict[str, nn.Module] = {}
    for depth, step in enumerate(steps):
        owner = ".".join(steps[:depth])
        for name, child in model.get_submodule(owner).named_children():
            if name != step:
                path = f"{owner}.{name}" if owner else name
                # A module list has no forward of its own: its members are called, so they get the stand-ins.
                members = child.named_children() if isinstance(child, (nn.ModuleList, nn.ModuleDict)) else ()
                beside |= {f"{path}.{member}": module for member, module in members} or {path: child}
    return beside


def embedding_width(model: PreTrainedModel) -> int:
    """Return how many numbers the embedding of one token has, as it enters the first decoder layer.

    Args:
        model: a causal LM that has its embedding.
    """
    return cast(int, model.get_input_embeddings().embedding_dim)


def examine(model: PreTrainedModel) -> Anatomy:
    """Find the layers of a causal LM and the modules that run before and after them.

    The model may be on the meta device; none of its weights is used and it is left as it was.

    Args:
        model: a transformers causal LM with all its layers.

    Returns:
        The places of the layers and of the modules around them.

    Raises:
        UnsupportedModelError: the model has no list of decoder layers, does not reach it when it is called, or hands its layers
            more than hidden states.
    """
    refuse_what_no_inspection_shows(model)
    refuse_more_than_text(model)
    refuse_unlike_layers(model)
    layers_path = _find_layers(model)
    refuse_loose_parameters(model, layers_path)
    base_name = layers_path.split(".")[0]
    refuse_without_embeds(model, base_name)
    beside = _beside_the_way(model, layers_path)
    ran, arguments = run_to_layers(model, layers_path, beside, embedding_width(model))
    refuse_second_stream(model, arguments)
    return Anatomy(
        base_name=base_name,
        layers_path=layers_path,
        before_layers=tuple(path for path in beside if path in ran),
        after_layers=tuple(path for path in beside if path not in ran),
    )
