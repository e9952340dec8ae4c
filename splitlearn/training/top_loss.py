"""From what a top returns to the losses of a batch, wherever the top is.

Shapes: B rows, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from splitlearn.model import SplitModel, chunked_loss

# Names of the router loss's weight in transformers' models and configurations.
_ROUTER_LOSS_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef", "moe_loss_weight")
_MIB = 2**20
# A GPU takes longer to start many small pieces than to compute them, and has room for larger ones.
_MIB_ON_CPU, _MIB_ON_GPU = 32.0, 512.0
# Fewer at a time are slow.
_FEWEST_CHUNK_TOKENS = 64


# How large a batch's logits may become, in MiB of float32; "auto" is by the device of the top, None has no limit.
LogitsLimit = float | Literal["auto"] | None


@dataclass(frozen=True, eq=False)
class TopLosses:
    """The losses of one batch that the holder of the top computes, all scalars.

    Attributes:
        text: the next-token loss, divided as asked for.
        router: the weighted router loss of a mixture of experts; None without one.
    """

    text: torch.Tensor
    router: torch.Tensor | None = None


class TopLoss:
    """The losses of a top, as the unsplit model's.

    Logits of more than ``max_logits_mib`` are never in memory all at once, if the head is a plain linear one.

    Args:
        top: the top.
        max_logits_mib: how large a batch's logits may become, in MiB of float32; ``"auto"`` is 32 on the CPU and 512 on a GPU,
            None has no limit.
        has_linear_head: says whether the logits are one linear map; asked only where it matters, since it runs the top.
    """

    def __init__(self, top: SplitModel, max_logits_mib: LogitsLimit, has_linear_head: Callable[[], bool]) -> None:
        self._top = top
        if max_logits_mib == "auto":
            max_logits_mib = _MIB_ON_CPU if top.device.type == "cpu" else _MIB_ON_GPU
        self._max_logits_mib = max_logits_mib
        self._has_linear_head = has_linear_head

    def arguments(self, num_positions: int) -> dict[str, Any]:
        """Return the arguments with which the top must be run for `of`.

        Args:
            num_positions: positions of a batch (B x T).
        """
        return {} if self.chunk_tokens(num_positions) is None else {"skips_head": True}

    def of(self, output: Any, labels_BT: torch.Tensor, divisor: int) -> TopLosses:
        """Return the losses of a batch.

        Args:
            output: what the top has returned, run with `arguments`.
            labels_BT: the token ids, -100 where a token is not supervised, shape (B, T).
            divisor: what to divide the loss of the text by.
        """
        chunk_tokens = self.chunk_tokens(labels_BT.numel())
        if chunk_tokens is not None:
            head = self._top.model.get_output_embeddings()
            return TopLosses(chunked_loss(head, output[0], labels_BT, divisor, chunk_tokens))
        router_loss = output.get("aux_loss")
        if router_loss is not None:
            router_loss = router_loss * self._router_loss_weight()
        return TopLosses(self._top.loss(output.logits, labels_BT, divisor), router_loss)

    def chunk_tokens(self, num_positions: int) -> int | None:
        """Return for how many positions logits may be in memory at a time; None if all may, or the head is not a plain one.

        Args:
            num_positions: positions of a batch (B x T).
        """
        config = self._top.config.get_text_config(decoder=True)
        if self._max_logits_mib is None or getattr(config, "output_router_logits", False):
            return None
        most = int(self._max_logits_mib * _MIB / (4 * config.vocab_size))
        if num_positions <= most:
            return None
        return max(1 << most.bit_length() - 1, _FEWEST_CHUNK_TOKENS) if self._has_linear_head() else None

    def _router_loss_weight(self) -> float:
        model = self._top.model
        for owner in (model, model.config.get_text_config(decoder=True)):
            for name in _ROUTER_LOSS_WEIGHTS:
                if hasattr(owner, name):
                    return float(getattr(owner, name))
        raise ValueError(
            f"{type(model).__name__} does not say how much its router loss counts; set its output_router_logits to false"
        )
