"""One call of a part's modules.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from splitlearn.boundary import LayerOutputs
from splitlearn.cut import PartSpec
from splitlearn.model.anatomy import Anatomy
from splitlearn.model.passage import Passage, PassageResult
from splitlearn.model.recorded_outputs import join_outputs, own_outputs, router_logits_below


@dataclass(frozen=True, eq=False)
class PartOutput:
    """A part's output, with the recorded outputs of its layers.

    Attributes:
        output: smashed data of shape (B, T, D); from a top transformers' output.
        layer_outputs: recorded outputs of a bottom or trunk by transformers' name; a top's are in its output.
    """

    output: Any
    layer_outputs: LayerOutputs = field(default_factory=dict)


def call_part(
    model: PreTrainedModel,
    spec: PartSpec,
    anatomy: Anatomy,
    passage: Passage,
    inputs: torch.Tensor,
    arguments: Mapping[str, Any],
    below: Mapping[str, LayerOutputs],
    skips_head: bool,
) -> PartOutput:
    """Run a part's modules once.

    Args:
        model: the causal LM, cut down to the part.
        spec: which part it is.
        anatomy: where the model's layers are.
        passage: where smashed data enter and leave its layers.
        inputs: token ids (B, T) for a bottom, smashed data (B, T, D) for a trunk or top.
        arguments: those of the transformers model, on the part's device.
        below: recorded outputs of each part below, by the part's name; empty if they are not known.
        skips_head: whether a top returns its base model's output.

    Returns:
        Smashed data, or transformers' output from a top, with the recorded outputs.

    Raises:
        ValueError: the recorded outputs of the layers cannot be joined.
    """
    base = anatomy.base(model)
    if spec.has_embedding:
        result = passage.run(lambda: base(input_ids=inputs, **arguments), None)
        hidden_BTD = result.output[0] if result.hidden_BTD is None else result.hidden_BTD
        return _lower_output(spec, base, replace(result, hidden_BTD=hidden_BTD), arguments)
    called = model if spec.has_head and not skips_head else base
    # Give the model zeros of the right shape; `Passage` puts the smashed data in at its first layer. Some models change their
    # inputs in place, and some have several streams of hidden states, (B, T, streams, D).
    shape_BTD = inputs.new_zeros(*inputs.shape[:2], inputs.shape[-1])
    routers_below = router_logits_below(below) if spec.has_head else ()
    result = passage.run(lambda: called(inputs_embeds=shape_BTD, **arguments), inputs, routers_below)
    if not spec.has_head:
        return _lower_output(spec, base, result, arguments)
    if below:
        join_outputs(spec, result, below)
    return PartOutput(result.output)


def _lower_output(spec: PartSpec, base: PreTrainedModel, result: PassageResult, arguments: Mapping[str, Any]) -> PartOutput:
    asked = arguments.get("output_hidden_states")
    if asked is None:
        asked = getattr(base.config, "output_hidden_states", False)
    return PartOutput(result.hidden_BTD, own_outputs(spec, result, bool(asked)))
