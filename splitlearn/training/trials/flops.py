"""How many floating-point operations a training step takes, without taking one.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from splitlearn.model import SplitModel, is_quantized
from splitlearn.randomness import forked_random_state
from splitlearn.training.trials.one_part import run_one_part


def count_flops(parts: Sequence[SplitModel], num_frozen: int, num_rows: int, num_tokens: int) -> list[int] | None:
    """Count the operations of matrix products and attention in one training step, with torch's own counter.

    The step is taken by copies of the modules on tensors that have shapes and no memory. A counter around the real step would
    have torch choose other ways to compute it, which round differently.

    Args:
        parts: bottom, trunk and top, with what is trained marked.
        num_frozen: how many parts from the bottom run without gradients.
        num_rows: rows of the batch (B).
        num_tokens: tokens of each row (T).

    Returns:
        Each part's operations, forward and backward. None if the model cannot be run without values: some look at them to
        choose what to compute.
    """
    tensors = itertools.chain.from_iterable([*part.parameters(), *part.buffers()] for part in parts)
    shared = {id(tensor): tensor for tensor in tensors}
    try:
        with torch.compiler.set_stance("force_eager"), forked_random_state():
            return _count([copy.deepcopy(part, shared) for part in parts], num_frozen, num_rows, num_tokens)
    except Exception:
        # Fake tensors have no values. A model or a quantized weight that reads some fails here, each in its own way, and the
        # count stays unknown.
        return None


def _count(parts: Sequence[SplitModel], num_frozen: int, num_rows: int, num_tokens: int) -> list[int]:
    counts = []
    # Real parameters may stand among the others: they are only asked for their shapes.
    with FakeTensorMode(allow_non_fake_inputs=True):
        ids_BT = torch.zeros(num_rows, num_tokens, dtype=torch.int64, device=parts[0].device)
        hidden = ids_BT
        for index, part in enumerate(parts):
            _dequantize(part)
            with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(index >= num_frozen):
                output = run_one_part(part, hidden)
                if output.requires_grad:
                    _go_back(part, hidden, output, ids_BT)
            counts.append(counter.get_total_flops())
            # A clone, since the counter's hooks do not take inputs of a module that are leaves.
            hidden = output.detach().requires_grad_(output.requires_grad).clone()
    return counts


def _go_back(part: SplitModel, hidden: torch.Tensor, output: torch.Tensor, ids_BT: torch.Tensor) -> None:
    """Run a part's backward pass, to what is trained in it and to its inputs, with any gradient of its outputs."""
    result = part.loss(output, ids_BT, ids_BT.numel()) if part.spec.has_head else output
    wanted = [tensor for tensor in (hidden, *part.parameters()) if tensor.requires_grad]
    # Unlike backward(), this leaves nothing behind at the parameters.
    torch.autograd.grad(result, wanted, torch.ones_like(result), allow_unused=True)


def _dequantize(part: SplitModel) -> None:
    """Put plain linear layers in place of quantized ones: torch's counter does not know the operations of quantizers."""
    for module in list(part.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and is_quantized(child.weight):
                device, dtype = part.device, part.blueprint.dtype
                plain = nn.Linear(child.in_features, child.out_features, child.bias is not None, device, dtype)
                setattr(module, name, plain.requires_grad_(False))
