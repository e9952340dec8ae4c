"""The next-token loss of a model whose logits are one linear map, without ever holding all logits.

Shapes: B rows, T tokens, D hidden size, N = B T positions, V vocabulary size.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.loss.loss_utils import ForCausalLMLoss

from splitlearn.model.split_model import SplitModel

# None in versions of torch that lack it; `chunked_loss` computes chunks itself then.
_linear_cross_entropy = getattr(nn.functional, "linear_cross_entropy", None)


def has_linear_head(top: SplitModel, smashed_BTD: torch.Tensor) -> bool:
    """Whether the top's logits are a linear map of its base model's output, and its loss the usual one.

    Capping, scaling and other extra steps are found by running the top and comparing; a few tokens suffice.

    Args:
        top: the top, in evaluation mode.
        smashed_BTD: smashed data for it, shape (B, T, D).
    """
    head = top.model.get_output_embeddings()
    if type(head) is not nn.Linear or top.model.loss_function is not ForCausalLMLoss:
        return False
    is_autocast = torch.is_autocast_enabled(top.device.type)
    if is_autocast and head.weight.requires_grad:
        # The gradients of chunks would be added up in autocast's dtype, which has too few digits for many of them.
        return False
    with torch.no_grad():
        # An empty `below` lets the top run alone although it may be asked for router logits of all layers.
        logits_BTV = top(smashed_BTD, below={}).logits
        hidden_BTD = top(smashed_BTD, below={}, skips_head=True)[0]
        return (is_autocast or hidden_BTD.dtype == head.weight.dtype) and torch.equal(logits_BTV, head(hidden_BTD))


def chunked_loss(
    head: nn.Linear, hidden_BTD: torch.Tensor, labels_BT: torch.Tensor, num_tokens: torch.Tensor | int, chunk_tokens: int
) -> torch.Tensor:
    """Return the next-token loss, summed over supervised tokens and divided by ``num_tokens``.

    Args:
        head: the output embedding; under autocast it is frozen.
        hidden_BTD: the input of the head, shape (B, T, D).
        labels_BT: the token ids, -100 where a token is not supervised, shape (B, T).
        num_tokens: the divisor, usually the supervised tokens of the whole batch.
        chunk_tokens: number of positions whose logits are in memory at a time.

    Returns:
        A scalar on the head's device. It has no second derivatives.
    """
    # The last token of a row predicts nothing.
    hidden_ND = hidden_BTD[:, :-1].flatten(0, 1)
    targets_N = labels_BT[:, 1:].flatten().to(hidden_ND.device)
    weight = head.weight
    if torch.is_autocast_enabled(weight.device.type):
        # Autocast would cast a frozen weight again for each chunk.
        weight = weight.to(torch.get_autocast_dtype(weight.device.type))
    elif weight.dtype == torch.float32 and _linear_cross_entropy is not None:
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_tokens, chunking_method=None, acc_policy="accurate")
        loss: torch.Tensor = _linear_cross_entropy(
            hidden_ND, weight, targets_N, linear_bias=head.bias, reduction="sum", options=options
        )
        return loss / num_tokens
    # In bfloat16 the fused kernel rounds each token's loss, so compute logits in float32, as transformers does. Checkpointing
    # recomputes a chunk's logits in the backward pass instead of keeping them; nothing in it is random.
    losses = [
        checkpoint(_loss_of_chunk, weight, head.bias, hidden, targets, use_reentrant=False, preserve_rng_state=False)
        for hidden, targets in zip(hidden_ND.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True)
    ]
    return torch.stack(losses).sum() / num_tokens


def _loss_of_chunk(
    weight_VD: torch.Tensor, bias_V: torch.Tensor | None, hidden_ND: torch.Tensor, targets_N: torch.Tensor
) -> torch.Tensor:
    logits_NV = nn.functional.linear(hidden_ND, weight_VD, bias_V)
    return nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="sum")
