"""From a batch to its loss, through the parts.

Shapes: B rows, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from splitlearn.boundary import CallKind, Handover
from splitlearn.model import ComposedCausalLM, Finished, chunked_loss
from splitlearn.naming import named
from splitlearn.training.frozen_parts import FrozenParts
from splitlearn.training.trials import Trials

Batch = dict[str, torch.Tensor]
# Names of the router loss's weight in transformers' models and configurations.
_ROUTER_LOSS_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef", "moe_loss_weight")
_MIB = 2**20
# Fewer at a time are slow.
_FEWEST_CHUNK_TOKENS = 64


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of one batch, all scalars.

    Attributes:
        text: the next-token loss, divided as asked for.
        router: the weighted router loss of a mixture of experts; None without one.
        boundary: what the boundaries' observers add; None for nothing.
    """

    text: torch.Tensor
    router: torch.Tensor | None
    boundary: torch.Tensor | None


class SplitLoss:
    """The next-token loss of a cut model, as the unsplit model's.

    Logits of more than ``max_logits_mib`` are never in memory all at once, if the head is a plain linear one.

    Args:
        composed: the model.
        frozen_parts: the frozen parts that all data pass first.
        max_logits_mib: how large a batch's logits may become, in MiB of float32; None has no limit.
    """

    def __init__(self, composed: ComposedCausalLM, frozen_parts: FrozenParts, max_logits_mib: float | None) -> None:
        self._composed = composed
        self._frozen_parts = frozen_parts
        self._max_logits_mib = max_logits_mib
        self._trials = Trials(composed, frozen_parts.number)

    def flops_of(self, ids_BT: torch.Tensor) -> int | None:
        """Return the operations of a training step on the last batch, of token ids (B, T); None if they are not known."""
        num_rows, num_tokens = ids_BT.shape
        return self._trials.flops(num_rows, num_tokens, self._frozen_parts.share_run)

    def __call__(self, batch: Batch, divisor: int, name: str, data: object) -> Losses:
        """Return the losses of a batch.

        Args:
            batch: ``input_ids`` and ``labels``, each (B, T), and what else there is.
            divisor: what to divide the loss of the text by.
            name: which data set the batch is of, ``"train"`` or ``"val"``.
            data: the data.

        Raises:
            ValueError: rows lie side by side in blocks and the model does not keep them apart.
        """
        if "position_ids" in batch and not self._trials.keeps_rows_apart:
            raise ValueError(
                "this model lets rows that lie side by side in a block see each other, whatever their positions; set "
                f"{named('packing')}=none (a row for each) or joined (rows end to end)"
            )
        arguments: dict[str, Any] = {key: batch[key] for key in ("attention_mask", "position_ids") if key in batch}
        chunk_tokens = self.chunk_tokens(batch["input_ids"].numel())
        finished = self._run(batch, arguments, name, data, skips_head=chunk_tokens is not None)
        top, output = self._composed.top, finished.output
        if chunk_tokens is not None:
            head = top.model.get_output_embeddings()
            text_loss = chunked_loss(head, output[0], batch["labels"], divisor, chunk_tokens)
            return Losses(text_loss, None, finished.loss_term)
        router_loss = output.get("aux_loss")
        if router_loss is not None:
            router_loss = router_loss * self._router_loss_weight()
        return Losses(top.loss(output.logits, batch["labels"], divisor), router_loss, finished.loss_term)

    def _run(self, batch: Batch, arguments: Mapping[str, Any], name: str, data: object, skips_head: bool) -> Finished:
        kind = CallKind.TRAIN if name == "train" else CallKind.EVALUATE
        start = 0
        inputs: torch.Tensor | Handover = batch["input_ids"]
        if self._frozen_parts.keeps:
            start = self._frozen_parts.number
            inputs = self._frozen_parts.run(batch, name, data, arguments, kind)
        settings = {**arguments, "skips_head": True} if skips_head else arguments
        labels_BT, rows_B = batch["labels"], batch.get("row")
        return cast(Finished, self._composed.run(inputs, start, kind=kind, labels_BT=labels_BT, rows_B=rows_B, **settings))

    def chunk_tokens(self, num_positions: int) -> int | None:
        """Return for how many positions logits may be in memory at a time; None if all may, or the head is not a plain one.

        Args:
            num_positions: positions of a batch (B x T).
        """
        config = self._composed.top.model.config.get_text_config(decoder=True)
        if self._max_logits_mib is None or getattr(config, "output_router_logits", False):
            return None
        most = int(self._max_logits_mib * _MIB / (4 * config.vocab_size))
        if num_positions <= most:
            return None
        return max(1 << most.bit_length() - 1, _FEWEST_CHUNK_TOKENS) if self._trials.has_linear_head else None

    def _router_loss_weight(self) -> float:
        model = self._composed.top.model
        for owner in (model, model.config.get_text_config(decoder=True)):
            for name in _ROUTER_LOSS_WEIGHTS:
                if hasattr(owner, name):
                    return float(getattr(owner, name))
        raise ValueError(
            f"{type(model).__name__} does not say how much its router loss counts; set its output_router_logits to false"
        )
