"""Running one part by itself, as trials do.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch

from splitlearn.model import SplitModel


def run_one_part(part: SplitModel, inputs: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """Return what a part makes of its inputs, without a cache: smashed data (B, T, D), or the logits (B, T, V) of a top.

    The part is called directly and not through the model, so that no data of a trial pass a cut.

    Args:
        part: the part.
        inputs: token ids (B, T) for a bottom, otherwise smashed data (B, T, D) of any dtype.
        **arguments: further arguments of the part.
    """
    if inputs.is_floating_point():
        inputs = inputs.to(part.blueprint.dtype)
    if getattr(part.blueprint.config.get_text_config(decoder=True), "output_router_logits", False):
        # A router loss over one part's layers would mean nothing.
        arguments["output_router_logits"] = False
    # With nothing said of the parts below, a top would refuse to return what the configuration asks of all layers.
    output = part(inputs, use_cache=False, below={}, **arguments)
    result: torch.Tensor = output.logits if part.spec.has_head else output
    return result
