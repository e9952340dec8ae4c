"""Outputs that a model records of every layer if asked: hidden states, attentions, router logits, over the layers of all parts.

transformers' models list hidden states in one of two ways, with the last one after the final norm:

- the input of each layer, then the output of the model (nearly all);
- the output of each layer, then the output of the model (Mamba's).

A part's own model lists them for its own layers. A trunk or top sees only the shape of the smashed data before its first layer,
so the first entry of a list of the first kind is replaced by the last one of the part below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from splitlearn.boundary import LayerOutputs
from splitlearn.cut import PartSpec
from splitlearn.model.passage import PassageResult

_ASKED = {"output_hidden_states": "hidden_states", "output_attentions": "attentions", "output_router_logits": "router_logits"}
# One entry for each layer that has them.
_LISTS = ("attentions", "cross_attentions", "router_logits")
# Key of `LayerOutputs` that marks a part whose model lists the outputs of its layers.
_LEAVES = "lists_what_leaves"
# Key for the input of the first layer, from a bottom without layers, which cannot know in which way the model lists.
_ENTERED = "entered"


def refuse_choice_of_layers(config: PreTrainedConfig, arguments: Mapping[str, Any]) -> None:
    """Refuse hidden states or attentions of chosen layers: a part counts its layers from its own first.

    Args:
        config: the base model's.
        arguments: those of the call; they override the configuration.

    Raises:
        ValueError: an argument, or the configuration, chooses among the layers.
    """
    for argument, output in _ASKED.items():
        asked, place = _asked(config, arguments, argument)
        if asked is not None and not isinstance(asked, bool):
            raise ValueError(
                f"{place} is {asked!r}, but a part counts its layers from its own first and cannot choose among the {output} "
                "of all layers: set it to true or false"
            )


def refuse_without_parts_below(spec: PartSpec, config: PreTrainedConfig, arguments: Mapping[str, Any]) -> None:
    """Refuse recorded outputs from a top that was called with a tensor: it has only those of its own layers.

    Args:
        spec: the part that is called.
        config: the base model's.
        arguments: those of the call; they override the configuration.

    Raises:
        ValueError: an argument, or the configuration, asks for recorded outputs of all layers.
    """
    if not spec.has_head or spec.start == 0:
        return
    for argument, output in _ASKED.items():
        asked, place = _asked(config, arguments, argument)
        if asked:
            loss = ", and the router loss computed from them," if output == "router_logits" else ""
            raise ValueError(
                f"{place} is {asked!r}, but {spec.name} was called with a tensor, which does not bring the {output} of the "
                f"layers below: they{loss} would be of {spec.name}'s layers alone. Call the parts through ComposedCausalLM, or "
                f"pass {argument}=False"
            )


def _asked(config: PreTrainedConfig, arguments: Mapping[str, Any], argument: str) -> tuple[Any, str]:
    """Return the value of a setting, and the place that sets it."""
    asked = arguments.get(argument)
    if asked is not None:
        return asked, argument
    return getattr(config, argument, None), f"{argument} of the model's configuration"


def own_outputs(spec: PartSpec, result: PassageResult, asks_hidden_states: bool) -> LayerOutputs:
    """Return the recorded outputs of a bottom's or trunk's layers, as far as the model was asked for them.

    Args:
        spec: the part.
        result: the result of running it.
        asks_hidden_states: whether hidden states are to be recorded.

    Returns:
        Lists by transformers' name, with one entry for each layer that has one.

    Raises:
        ValueError: there is not one hidden state for each layer.
    """
    output = result.output
    if spec.start == spec.end or not isinstance(output, ModelOutput):
        # A bottom without layers stops before the first layer, so its smashed data are that layer's input.
        return {_ENTERED: (result.hidden_BTD,)} if asks_hidden_states and spec.has_embedding else {}
    outputs = {name: tuple(output[name]) for name in _LISTS if output.get(name) is not None}
    listed = output.get("hidden_states")
    if listed is None:
        return outputs
    if len(listed) != spec.end - spec.start + 1:
        raise ValueError(_unlike(spec, len(listed)))
    # The last entry equals the smashed data: use that very tensor, so that the boundary sends it once.
    if _lists_what_leaves(listed, result):
        return outputs | {_LEAVES: (), "hidden_states": (*listed[:-2], result.hidden_BTD)}
    first = 0 if spec.has_embedding else 1
    return outputs | {"hidden_states": (*listed[first:-1], result.hidden_BTD)}


def _lists_what_leaves(listed: Any, result: PassageResult) -> bool:
    return len(listed) > 1 and listed[0] is result.first_BTD


def join_outputs(spec: PartSpec, result: PassageResult, below: Mapping[str, LayerOutputs]) -> None:
    """Put the recorded outputs of the parts below before those in the top's output.

    Args:
        spec: the top.
        result: the result of running it; its output is changed in place.
        below: recorded outputs of each part below, by the part's name.

    Raises:
        ValueError: there is not one hidden state for each layer.
    """
    output = result.output
    if not isinstance(output, ModelOutput):
        return
    # Router logits stand in the output already: the head has computed its loss from them.
    for name in ("attentions", "cross_attentions"):
        if output.get(name) is not None:
            output[name] = _below(below, name) + tuple(output[name])
    listed = output.get("hidden_states")
    if listed is None:
        return
    entries = _below(below, "hidden_states")
    if not _lists_what_leaves(listed, result) and not any(_LEAVES in outputs for outputs in below.values()):
        entries = _below(below, _ENTERED) + entries
    if spec.start == spec.end:
        output["hidden_states"] = (*entries[: spec.num_layers], listed[-1] if listed else result.hidden_BTD)
        return
    num_own = spec.num_layers + 1 - len(entries)
    if num_own > len(listed):
        raise ValueError(_unlike(spec, len(listed)))
    output["hidden_states"] = entries + tuple(listed[len(listed) - num_own :])


def router_logits_below(below: Mapping[str, LayerOutputs]) -> tuple[Any, ...]:
    """Return the router logits of the parts below, one tensor for each of their layers that has a router.

    Args:
        below: recorded outputs of each part below, by the part's name.
    """
    return _below(below, "router_logits")


def _below(below: Mapping[str, LayerOutputs], name: str) -> tuple[Any, ...]:
    return tuple(entry for outputs in below.values() for entry in outputs.get(name, ()))


def _unlike(spec: PartSpec, count: int) -> str:
    return (
        f"{spec.name} has {spec.end - spec.start} layers, but its model lists {count} hidden states, so they cannot be joined "
        "to the unsplit model's: set output_hidden_states to false"
    )
