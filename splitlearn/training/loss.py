"""From a batch to its loss, through the parts.

Shapes: B rows, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from splitlearn.boundary import CallKind, Handover
from splitlearn.cut import PART_NAMES
from splitlearn.model import Arriving, ComposedCausalLM, Finished, chunked_loss
from splitlearn.naming import named
from splitlearn.training.frozen_parts import FrozenParts
from splitlearn.training.trials import Trials

Batch = dict[str, torch.Tensor]
# Names of the router loss's weight in transformers' models and configurations.
_ROUTER_LOSS_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef", "moe_loss_weight")
_MIB = 2**20
# Fewer at a time are slow.
_FEWEST_CHUNK_TOKENS = 64
_TOP = PART_NAMES.index("top")


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
        num_microbatches: into how many a training batch is divided. The trunk is given all of them before the top asks for the
            first, so that a party that holds it computes while this one does.
    """

    def __init__(
        self,
        composed: ComposedCausalLM,
        frozen_parts: FrozenParts,
        max_logits_mib: float | None,
        num_microbatches: int = 1,
    ) -> None:
        self._composed = composed
        self._frozen_parts = frozen_parts
        self._max_logits_mib = max_logits_mib
        self._num_microbatches = num_microbatches
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
        microbatches = _divided(batch, self._num_microbatches if name == "train" else 1)
        under_way = [self._begin(microbatch, name, data) for microbatch in microbatches]
        losses = [self._finish(*pair, divisor, name) for pair in zip(microbatches, under_way, strict=True)]
        shares = [len(microbatch["labels"]) / len(batch["labels"]) for microbatch in microbatches]
        return losses[0] if len(losses) == 1 else _combined(losses, shares)

    def _begin(self, batch: Batch, name: str, data: object) -> Handover | Arriving:
        """Run a batch up to the top, without waiting for another party that holds the trunk."""
        inputs: torch.Tensor | Handover = batch["input_ids"]
        start = 0
        if self._frozen_parts.keeps:
            start = self._frozen_parts.number
            inputs = self._frozen_parts.run(batch, name, data, _context(batch), _kind(name))
        return cast(Handover | Arriving, self._run(inputs, start, _TOP, batch, name, awaits=False))

    def _finish(self, batch: Batch, reached: Handover | Arriving, divisor: int, name: str) -> Losses:
        """Run the top on a batch from where `_begin` stopped, and return its losses."""
        chunk_tokens = self.chunk_tokens(batch["input_ids"].numel())
        skips_head = {} if chunk_tokens is None else {"skips_head": True}
        finished = cast(Finished, self._run(reached, _TOP, _TOP + 1, batch, name, **skips_head))
        top, output = self._composed.top, finished.output
        if chunk_tokens is not None:
            head = top.model.get_output_embeddings()
            text_loss = chunked_loss(head, output[0], batch["labels"], divisor, chunk_tokens)
            return Losses(text_loss, None, finished.loss_term)
        router_loss = output.get("aux_loss")
        if router_loss is not None:
            router_loss = router_loss * self._router_loss_weight()
        return Losses(top.loss(output.logits, batch["labels"], divisor), router_loss, finished.loss_term)

    def _run(
        self, inputs: torch.Tensor | Handover | Arriving, start: int, stop: int, batch: Batch, name: str, **settings: Any
    ) -> Handover | Arriving | Finished:
        beside: dict[str, Any] = {"kind": _kind(name), "labels_BT": batch["labels"], "rows_B": batch.get("row")}
        return self._composed.run(inputs, start, stop, **beside, **_context(batch), **settings)

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


def _kind(name: str) -> CallKind:
    return CallKind.TRAIN if name == "train" else CallKind.EVALUATE


def _context(batch: Batch) -> dict[str, Any]:
    return {key: batch[key] for key in ("attention_mask", "position_ids") if key in batch}


def _divided(batch: Batch, count: int) -> list[Batch]:
    """Divide a batch's rows; fewer microbatches than ``count`` if there are not enough rows."""
    if count == 1:
        return [batch]
    num_rows = len(batch["labels"])
    size = -(-num_rows // count)
    return [{key: value[at : at + size] for key, value in batch.items()} for at in range(0, num_rows, size)]


def _combined(losses: Sequence[Losses], shares: Sequence[float]) -> Losses:
    """Return the losses of a batch from those of its microbatches, each of a share of its rows.

    That of the text is a sum, since each is divided by the whole batch's tokens; the others are means.
    """

    def mean(terms: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        there = [term * share for term, share in zip(terms, shares, strict=True) if term is not None]
        return torch.stack(there).sum() if there else None

    text = torch.stack([each.text for each in losses]).sum()
    return Losses(text, mean([each.router for each in losses]), mean([each.boundary for each in losses]))
