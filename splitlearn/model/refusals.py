"""Models that cannot be cut: each is refused with the reason before any weights are read."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import PreTrainedModel


class UnsupportedModelError(ValueError):
    """A model whose structure cannot be cut: the message names the model and the reason."""


# Architectures whose layers depend on more than their arguments, which inspection does not show.
_REFUSED = {
    "big_bird": "it replaces the attention of its layers while it runs",
    "deepseek_v4": "its layers route tokens by their ids, which must not leave the bottom",
    "hy_v4": "its layers reuse the choice of tokens that a lower layer made",
    "mllama_text_model": "some of its layers attend to images, which would have to reach every part",
    "rwkv": "its layers ask for their number in the whole model while they run",
    "inkling2_text": "its layers attend to what the layers of all blocks below returned",
}


def refuse_second_stream(model: PreTrainedModel, arguments: dict[str, Any]) -> None:
    """Refuse a model whose layers get more from the embeddings than the hidden states, which alone cross a cut.

    Args:
        model: the causal LM.
        arguments: arguments of its first layer in the trial call; those computed from embeddings require gradients.

    Raises:
        UnsupportedModelError: another argument than the hidden states requires gradients.
    """
    names = list(arguments)
    hidden = next((name for name in names if name == "hidden_states"), names[0] if names else None)
    others = {name: value for name, value in arguments.items() if name != hidden}
    extra = [name for name, value in others.items() if isinstance(value, torch.Tensor) and value.requires_grad]
    if extra:
        raise UnsupportedModelError(
            f"the layers of {type(model).__name__} take more from the embeddings than the hidden states "
            f"({', '.join(extra)}), so smashed data alone would not carry them"
        )


def refuse_what_no_inspection_shows(model: PreTrainedModel) -> None:
    """Refuse an architecture that stands in the table above.

    Args:
        model: the causal LM.

    Raises:
        UnsupportedModelError: its model type is in the table.
    """
    reason = _REFUSED.get(model.config.model_type)
    if reason is not None:
        raise UnsupportedModelError(f"{type(model).__name__} cannot be cut: {reason}")


def refuse_more_than_text(model: PreTrainedModel) -> None:
    """Refuse a model that holds other models, of images or sound.

    Args:
        model: the causal LM.

    Raises:
        UnsupportedModelError: a sub-configuration other than the text's has layers.
    """
    subs = {name: getattr(model.config, name, None) for name in model.config.sub_configs if name != "text_config"}
    # Attention and experts may have sub-configurations too; only those of another model have layers.
    models = [name for name, sub in subs.items() if getattr(sub, "num_hidden_layers", None) is not None]
    if models:
        raise UnsupportedModelError(
            f"{type(model).__name__} is more than a text model (it has {', '.join(models)}); cut its text model instead"
        )


def refuse_unlike_layers(model: PreTrainedModel) -> None:
    """Refuse a model whose layers have configurations of their own.

    Args:
        model: the causal LM.

    Raises:
        UnsupportedModelError: its configuration is heterogeneous.
    """
    if getattr(model.config.get_text_config(decoder=True), "is_heterogeneous", False):
        raise UnsupportedModelError(
            f"the layers of {type(model).__name__} differ in size (per_layer_config), which no part's configuration can express"
        )


def refuse_loose_parameters(model: PreTrainedModel, layers_path: str) -> None:
    """Refuse a model with parameters on the way to its layers that are in no module.

    Args:
        model: the causal LM.
        layers_path: dotted path of its layer list.

    Raises:
        UnsupportedModelError: there are such parameters.
    """
    steps = layers_path.split(".")
    loose = [
        f"{'.'.join(steps[:depth])}.{name}"
        for depth in range(1, len(steps))
        for name, _ in model.get_submodule(".".join(steps[:depth])).named_parameters(recurse=False)
    ]
    if loose:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds parameters beside its layers that are in no module ({', '.join(loose)}), "
            "so it cannot be told which part runs them"
        )


def refuse_without_embeds(model: PreTrainedModel, base_name: str) -> None:
    """Refuse a model that takes token ids only.

    Args:
        model: the causal LM.
        base_name: attribute that holds its base model.

    Raises:
        UnsupportedModelError: the causal LM or its base model takes no ``inputs_embeds``.
    """
    for module in (model, getattr(model, base_name)):
        parameters = inspect.signature(module.forward).parameters
        takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        if "inputs_embeds" not in parameters and not takes_any:
            raise UnsupportedModelError(
                f"{type(module).__name__} takes token ids only and no inputs_embeds, so smashed data cannot enter it"
            )
