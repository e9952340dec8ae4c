"""What every layer returns, hidden states and attentions: refused unless the parts return what the unsplit model does.

In most architectures transformers records them by hooks on the layers' own modules, which a part has as the unsplit model does.
In the others the model collects them in its own loop over the layers, where a part sees only the shape of the smashed data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from splitlearn.cut import PartSpec
from splitlearn.model.anatomy import Anatomy
from splitlearn.model.passage import Threshold

_OUTPUTS = {"output_hidden_states": "hidden_states", "output_attentions": "attentions"}


def refuse_unlike_outputs(model: PreTrainedModel, anatomy: Anatomy, part: PartSpec, arguments: Mapping[str, Any]) -> None:
    """Refuse to return for each layer what would not be what the unsplit model returns.

    Args:
        model: the unsplit model, or the part's.
        anatomy: where its layers are.
        part: the part that is called.
        arguments: those of the call; what they do not say, the configuration says.

    Raises:
        ValueError: an argument, or the configuration, asks for it.
    """
    for argument, output in _OUTPUTS.items():
        asked, place = arguments.get(argument), argument
        if asked is None:
            asked, place = getattr(anatomy.base(model).config, argument, None), f"{argument} of the model's configuration"
        if asked is None or asked is False:
            continue
        reason = _why_unlike(model, anatomy, part, asked, output)
        if reason:
            raise ValueError(f"{place} is {asked!r}, but {reason}: set it to false")


def _why_unlike(model: PreTrainedModel, anatomy: Anatomy, part: PartSpec, asked: Any, output: str) -> str | None:
    if asked is not True:
        # transformers takes numbers of layers, too.
        return f"a part counts its layers from its own first and cannot choose among the {output} of all layers"
    recorder = _recorder(model, anatomy, output)
    layers = anatomy.layers(model)
    is_of_layers = isinstance(recorder, type) and all(isinstance(layer, (recorder, Threshold)) for layer in layers)
    if recorder is None or (output == "hidden_states" and not is_of_layers):
        return f"{type(model).__name__} collects {output} outside its layers, so its parts cannot return the unsplit model's"
    if output == "hidden_states" and part.has_head and part.start == part.end:
        return "a top without layers has no hidden states to return"
    return None


def _recorder(model: PreTrainedModel, anatomy: Anatomy, output: str) -> Any:
    """Return what transformers' hooks record ``output`` at, or None if the base model's call does not record it."""
    steps = anatomy.layers_path.split(".")
    way = [model.get_submodule(".".join(steps[:depth])) for depth in range(1, len(steps))]
    # The innermost model on the way to the layers is the one that records: another one inside the base model keeps its own.
    recording = [module for module in way if isinstance(module, PreTrainedModel)][-1:]
    base = anatomy.base(model)
    return (getattr(base, "_can_record_outputs", None) or {}).get(output) if recording == [base] else None
