"""The next-token loss of a model whose logits are one linear map, without ever holding all logits.

Shapes: B rows, T tokens, D hidden size, N = B T positions, V vocabulary size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.loss.loss_utils import ForCausalLMLoss

from splitlearn.model.split_model import SplitModel

# None in versions of torch that lack it; `chunked_loss` computes chunks itself then.
_linear_cross_entropy = getattr(nn.functional, "linear_cross_entropy", None)
# What transformers marks tokens with that are not supervised.
_IGNORED = -100


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
    device, is_autocast = top.device.type, torch.is_autocast_enabled(top.device.type)
    if is_autocast and torch.get_autocast_dtype(device) == torch.float16:
        # Its gradients are scaled before they are rounded to float16, and a chunk's are rounded first.
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
        head: the output embedding.
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
    device = head.weight.device.type
    is_autocast = torch.is_autocast_enabled(device)
    if head.weight.dtype == torch.float32 and not is_autocast and _linear_cross_entropy is not None:
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_tokens, chunking_method=None, acc_policy="accurate")
        loss: torch.Tensor = _linear_cross_entropy(
            hidden_ND, head.weight, targets_N, linear_bias=head.bias, reduction="sum", options=options
        )
        return loss / num_tokens
    # In bfloat16 torch's own rounds each token's loss; transformers computes losses in float32.
    dtype = torch.get_autocast_dtype(device) if is_autocast else head.weight.dtype
    settings = num_tokens, chunk_tokens, dtype, torch.is_grad_enabled()
    chunked: torch.Tensor = _ChunkedLoss.apply(hidden_ND, head.weight, head.bias, targets_N, *settings)
    return chunked


class _ChunkedLoss(torch.autograd.Function):
    """Computes each chunk's gradients along with its loss, so that its logits are not needed a second time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        num_tokens: torch.Tensor | int,
        chunk_tokens: int,
        dtype: torch.dtype,
        has_backward: bool,
    ) -> torch.Tensor:
        needed = [has_backward and needs for needs in ctx.needs_input_grad[:3]]
        of_hidden_ND = torch.empty_like(hidden_ND) if needed[0] else None
        # In float32, since each is a sum over all chunks.
        of_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needed[1] else None
        of_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and needed[2] else None
        # Once, and not for each chunk.
        cast_VD, cast_V = weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for start in range(0, len(hidden_ND), chunk_tokens):
                chosen = slice(start, start + chunk_tokens)
                hidden, targets = hidden_ND[chosen].to(dtype), targets_N[chosen]
                log_shares_NV = nn.functional.linear(hidden, cast_VD, cast_V).float().log_softmax(-1)
                loss += nn.functional.nll_loss(log_shares_NV, targets, ignore_index=_IGNORED, reduction="sum")
                if not any(needed):
                    continue
                of_logits_NV = _gradient_of_logits(log_shares_NV, targets, num_tokens).to(dtype)
                # Or it would lie beside the next chunk's logits.
                del log_shares_NV
                if of_hidden_ND is not None:
                    of_hidden_ND[chosen] = of_logits_NV @ cast_VD
                if of_weight_VD is not None:
                    of_weight_VD += of_logits_NV.T @ hidden
                if of_bias_V is not None:
                    of_bias_V += of_logits_NV.sum(0)
                del of_logits_NV
        gradients = (of_hidden_ND, of_weight_VD, of_bias_V)
        dtypes = (hidden_ND.dtype, weight_VD.dtype, weight_VD.dtype)
        ctx.save_for_backward(*(None if one is None else one.to(own) for one, own in zip(gradients, dtypes, strict=True)))
        return loss / num_tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return *(None if own is None else own * gradient for own in ctx.saved_tensors), *[None] * 5


def _gradient_of_logits(log_shares_NV: torch.Tensor, targets_N: torch.Tensor, num_tokens: torch.Tensor | int) -> torch.Tensor:
    """Return the gradient of a chunk's loss over ``num_tokens``, in the memory of the logarithms of its tokens' shares."""
    is_ignored_N1 = (targets_N == _IGNORED).unsqueeze(-1)
    shares_NV = log_shares_NV.exp_()
    places_N1 = targets_N.unsqueeze(-1).masked_fill(is_ignored_N1, 0)
    shares_NV.scatter_add_(-1, places_N1, shares_NV.new_full(places_N1.shape, -1.0))
    return shares_NV.masked_fill_(is_ignored_N1, 0.0).div_(num_tokens)
