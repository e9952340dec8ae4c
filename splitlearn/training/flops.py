"""How many floating-point operations a training step takes, without taking one.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from splitlearn.cut import PART_NAMES
from splitlearn.model import ComposedCausalLM, is_quantized


def count_flops(composed: ComposedCausalLM, num_frozen: int, num_rows: int, num_tokens: int) -> tuple[int, int] | None:
    """Count the operations of matrix products and attention in one training step, with torch's own counter.

    The step is taken by a copy of the modules on tensors that have shapes and no memory. A counter around the real step would
    have torch choose other ways to compute it, which round differently.

    Args:
        composed: the model, with what is trained marked.
        num_frozen: how many parts from the bottom run without gradients.
        num_rows: rows of the batch (B).
        num_tokens: tokens of each row (T).

    Returns:
        The operations of these first parts, and of all others, forward and backward. None if the model cannot be run without
        values: some look at them to choose what to compute.
    """
    tensors = itertools.chain(composed.parameters(), composed.buffers())
    shared = {id(each): each for each in tensors}
    try:
        with torch.compiler.set_stance("force_eager"), torch.random.fork_rng():
            return _count(copy.deepcopy(composed, shared), num_frozen, num_rows, num_tokens)
    except Exception:
        # Whatever a model or a quantized weight does with values that are not there: nothing is known then.
        return None


def _count(composed: ComposedCausalLM, num_frozen: int, num_rows: int, num_tokens: int) -> tuple[int, int]:
    # Real parameters may stand among the others: they are only asked for their shapes.
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        _dequantize(composed)
        trained = [each for each in composed.parameters() if each.requires_grad]
        ids_BT = torch.zeros(num_rows, num_tokens, dtype=torch.int64, device=composed.bottom.device)
        hidden_BTD = ids_BT
        with torch.no_grad():
            if num_frozen:
                hidden_BTD = composed.run_parts(ids_BT, 0, num_frozen)
        frozen = counter.get_total_flops()
        output = composed.run_parts(hidden_BTD, num_frozen, len(PART_NAMES))
        loss = composed.top.loss(output.logits, ids_BT, num_rows * num_tokens)
        # Unlike backward(), this leaves nothing behind at the parameters.
        torch.autograd.grad(loss, trained, allow_unused=True)
    return frozen, counter.get_total_flops() - frozen


def _dequantize(composed: ComposedCausalLM) -> None:
    """Put plain linear layers in place of quantized ones: torch's counter does not know the operations of quantizers."""
    for module in list(composed.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and is_quantized(child.weight):
                device, dtype = composed.bottom.device, composed.bottom.blueprint.dtype
                plain = nn.Linear(child.in_features, child.out_features, child.bias is not None, device, dtype)
                setattr(module, name, plain.requires_grad_(False))
