"""From a batch to its loss, through the parts.

Shapes: B rows, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from splitlearn.boundary import CallKind, Handover
from splitlearn.cut import PART_NAMES
from splitlearn.model import Arriving, ComposedCausalLM, Finished
from splitlearn.naming import named
from splitlearn.training.early_gradients import EarlyGradients
from splitlearn.training.frozen_parts import FrozenParts
from splitlearn.training.token_window import count_supervised
from splitlearn.training.top_loss import LogitsLimit, TopLoss, TopLosses
from splitlearn.training.trials import Trials

Batch = dict[str, torch.Tensor]
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

    def detached(self) -> Losses:
        """Return the same values without autograd's graph."""
        router, boundary = (None if term is None else term.detach() for term in (self.router, self.boundary))
        return Losses(self.text.detach(), router, boundary)


class SplitLoss:
    """The next-token loss of a cut model, as the unsplit model's.

    Where another party holds the top, it is sent the labels and computes the loss.

    Args:
        composed: the model.
        frozen_parts: the frozen parts that all data pass first.
        max_logits_mib: how large a batch's logits may become, in MiB of float32; see `TopLoss`.
        num_microbatches: into how many a training batch is divided. The trunk is given all of them before the top asks for the
            first, and the top goes back on each before it asks for the next, so that a party that holds the trunk computes at
            the same time; see `EarlyGradients`.
    """

    def __init__(
        self,
        composed: ComposedCausalLM,
        frozen_parts: FrozenParts,
        max_logits_mib: LogitsLimit,
        num_microbatches: int = 1,
    ) -> None:
        self._composed = composed
        self._frozen_parts = frozen_parts
        self._num_microbatches = num_microbatches
        self._trials = Trials(composed, frozen_parts.number)
        # Whoever holds the top computes its loss.
        self._top_loss: TopLoss | None = None
        if not composed.top.is_elsewhere:
            self._top_loss = TopLoss(composed.top, max_logits_mib, lambda: self._trials.has_linear_head)

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
        under_way = [self._begin(microbatch, divisor, name, data) for microbatch in microbatches]
        if self._top_loss is None:
            pairs = zip(microbatches, under_way, strict=True)
            under_way = [self._send_to_top(*pair, divisor, name) for pair in pairs]
        shares = [len(microbatch["labels"]) / len(batch["labels"]) for microbatch in microbatches]
        early = self._early_gradients() if name == "train" and self.goes_back_early(batch) else None
        weight = count_supervised(batch["labels"]) / divisor
        losses = []
        for microbatch, reached, share in zip(microbatches, under_way, shares, strict=True):
            finished, of_top = self._finish(microbatch, reached, divisor, name)
            losses.append(Losses(of_top.text, of_top.router, finished.loss_term))
            if early is not None:
                early.add(of_top.text, finished.origin, finished.loss_term, share * weight)
                losses[-1] = losses[-1].detached()
        if len(losses) == 1:
            return losses[0]
        combined = _combined(losses, shares)
        return combined if early is None else replace(combined, text=early.loss(combined.text))

    def goes_back_early(self, batch: Batch) -> bool:
        """Whether gradients of a training batch leave the top before its backward pass.

        They do if this party gets the top's input from another one, so that both have something to do. A router loss depends on
        all parts at once.

        Args:
            batch: ``labels`` (B, T), and what else there is.
        """
        route = self._composed.boundaries[-1].route
        is_divided = min(self._num_microbatches, len(batch["labels"])) > 1
        comes_from_others = route.is_crossed and not route.sends_labels
        return is_divided and comes_from_others and torch.is_grad_enabled() and not self._composed.recorded_outputs()

    def _early_gradients(self) -> EarlyGradients:
        return EarlyGradients([parameter for parameter in self._composed.top.parameters() if parameter.requires_grad])

    def _begin(self, batch: Batch, divisor: int, name: str, data: object) -> Handover | Arriving:
        """Run a batch up to the top, without waiting for another party that holds the trunk."""
        inputs: torch.Tensor | Handover = batch["input_ids"]
        start = 0
        if self._frozen_parts.keeps:
            start = self._frozen_parts.number
            inputs = self._frozen_parts.run(batch, name, data, _context(batch), _kind(name))
        return cast(Handover | Arriving, self._run(inputs, start, _TOP, batch, divisor, name, awaits=False))

    def _send_to_top(self, batch: Batch, reached: Handover | Arriving, divisor: int, name: str) -> Arriving:
        """Send a batch on to another party that holds the top, without waiting for its losses."""
        return cast(Arriving, self._run(reached, _TOP, _TOP + 1, batch, divisor, name, awaits=False))

    def _finish(self, batch: Batch, reached: Handover | Arriving, divisor: int, name: str) -> tuple[Finished, TopLosses]:
        """Run the top on a batch from where `_begin` stopped, and return what came of it, and its losses."""
        settings = {} if self._top_loss is None else self._top_loss.arguments(batch["input_ids"].numel())
        finished = cast(Finished, self._run(reached, _TOP, _TOP + 1, batch, divisor, name, **settings))
        losses: TopLosses = finished.output
        if self._top_loss is not None:
            losses = self._top_loss.of(finished.output, batch["labels"], divisor)
        return finished, losses

    def _run(
        self,
        inputs: torch.Tensor | Handover | Arriving,
        start: int,
        stop: int,
        batch: Batch,
        divisor: int,
        name: str,
        **settings: Any,
    ) -> Handover | Arriving | Finished:
        beside: dict[str, Any] = {"kind": _kind(name), "labels_BT": batch["labels"], "divisor": divisor}
        beside["rows_B"] = batch.get("row")
        return self._composed.run(inputs, start, stop, **beside, **_context(batch), **settings)

    def chunk_tokens(self, num_positions: int) -> int | None:
        """Return for how many positions logits are in memory at a time; None for all, or if another party has them.

        Args:
            num_positions: positions of a batch (B x T).
        """
        return None if self._top_loss is None else self._top_loss.chunk_tokens(num_positions)


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
