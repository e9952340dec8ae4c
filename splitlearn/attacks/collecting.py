"""Recording exactly what crosses a cut.

Shapes: N pieces of text, B pieces of a batch, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch

from splitlearn.attacks.budget import Budget
from splitlearn.attacks.rehearsing import rehearsing
from splitlearn.attacks.view import FORWARD, Pieces
from splitlearn.boundary import BoundaryObserver, CallKind, Handover, Parcel
from splitlearn.model import ComposedCausalLM, Finished

_MIB = 2**20


def collect(
    model: ComposedCausalLM,
    ids_NT: torch.Tensor,
    cut: int,
    direction: str = FORWARD,
    *,
    seed: int = 0,
    mask_NT: torch.Tensor | None = None,
    labels_NT: torch.Tensor | None = None,
    budget: Budget | None = None,
    batch_size: int = 8,
    dtype: torch.dtype = torch.float32,
    max_mib: float | None = None,
) -> Pieces:
    """Run a model on pieces of text and record what crosses a cut, after codec and noise, as the receiver gets it.

    The model runs in evaluation mode as a trial over a rehearsal of its boundaries: its weights, gradients, modes, traffic,
    codecs' state and random numbers stay as they are, and so do torch's.

    Args:
        model: the model.
        ids_NT: token ids, shape (N, T).
        cut: 1 or 2.
        direction: `FORWARD` records smashed data, `BACKWARD` the gradients of the batch's mean next-token loss.
        seed: seed of the codecs' noise. Texts of the attacker and texts that are attacked need different seeds.
        mask_NT: True for real tokens, shape (N, T); None if all are.
        labels_NT: labels of the loss, -100 where a position has none, shape (N, T); None takes the token ids.
        budget: its pieces and seconds end the recording; fewer pieces are returned then.
        batch_size: pieces run at once. Gradients depend on it as those of training do.
        dtype: of what is kept.
        max_mib: the most memory that what is kept may take, in MiB; None has no limit.

    Returns:
        The recorded pieces, on the CPU, in order; with gradients the smashed data that they are gradients of.

    Raises:
        ValueError: nothing crosses there, the pieces do not fit in ``max_mib``, or a value is too large for ``dtype``.
    """
    boundary = model.boundaries[cut - 1]
    if not boundary.route.is_crossed:
        raise ValueError(f"nothing crosses cut {cut}: the parts on both sides are one party's")
    limits = budget or Budget()
    meter = limits.start()
    num_pieces = meter.take_pieces(len(ids_NT))
    chosen = _Chosen(ids_NT[:num_pieces], mask_NT, labels_NT)
    kept: list[torch.Tensor] = []
    smashed: list[torch.Tensor] = []
    with rehearsing(model, seed) as rehearsal:
        record = _record_forward if direction == FORWARD else _record_backward
        for start in range(0, num_pieces, batch_size):
            if kept and not meter.take_step():
                break
            crossed, *sent = record(rehearsal, cut, chosen.rows(start, start + batch_size))
            if not kept:
                _check_memory(num_pieces, [crossed, *sent], dtype, max_mib)
            kept.append(_as_kept(crossed, dtype))
            smashed.extend(_as_kept(hidden, dtype) for hidden in sent)
        return chosen.with_crossed(kept, smashed)


class _Chosen:
    """The pieces that are run, with what is passed to the model besides their token ids."""

    def __init__(self, ids_NT: torch.Tensor, mask_NT: torch.Tensor | None, labels_NT: torch.Tensor | None) -> None:
        self.ids_NT, self.mask_NT = ids_NT, mask_NT
        self.labels_NT = ids_NT if labels_NT is None else labels_NT
        if labels_NT is None and mask_NT is not None:
            self.labels_NT = ids_NT.masked_fill(~mask_NT[: len(ids_NT)], -100)

    def rows(self, start: int, stop: int) -> dict[str, torch.Tensor]:
        """Return some pieces as arguments of a model."""
        batch = {"input_ids": self.ids_NT[start:stop], "labels": self.labels_NT[start : min(stop, len(self.ids_NT))]}
        if self.mask_NT is not None:
            batch["attention_mask"] = self.mask_NT[start : min(stop, len(self.ids_NT))].long()
        return batch

    def with_crossed(self, crossed: list[torch.Tensor], smashed: list[torch.Tensor]) -> Pieces:
        """Return the pieces with what crossed, and beside gradients with the smashed data that they are of."""
        crossed_NTD = torch.cat(crossed)
        count = len(crossed_NTD)
        mask = None if self.mask_NT is None else self.mask_NT[:count].bool()
        if not smashed:
            return Pieces(self.ids_NT[:count].clone(), crossed_NTD, mask_NT=mask)
        return Pieces(self.ids_NT[:count].clone(), crossed_NTD, self.labels_NT[:count].clone(), mask, torch.cat(smashed))


class _CrossedError(Exception):
    """Ends a run as soon as the data have crossed: what the parts above make of them is not needed."""


class _Recorder(BoundaryObserver):
    def __init__(self, ends_run: bool) -> None:
        self.crossed: list[torch.Tensor] = []
        self._ends_run = ends_run

    def on_receive(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        if self._ends_run:
            self.crossed.append(parcel.hidden_BTD.detach())
            raise _CrossedError

    def on_receive_gradient(self, cut: int, gradient_BTD: torch.Tensor) -> None:
        self.crossed.append(gradient_BTD.detach())


@contextmanager
def _recording(model: ComposedCausalLM, cut: int, ends_run: bool) -> Iterator[_Recorder]:
    recorder, observers = _Recorder(ends_run), model.boundaries[cut - 1].observers
    observers.append(recorder)
    try:
        yield recorder
    except _CrossedError:
        pass
    finally:
        observers.remove(recorder)


def _record_forward(model: ComposedCausalLM, cut: int, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    arguments: dict[str, Any] = {name: value for name, value in batch.items() if name == "attention_mask"}
    with torch.no_grad(), _recording(model, cut, ends_run=True) as recorder:
        model.run(batch["input_ids"], kind=CallKind.TRIAL, **arguments)
    return recorder.crossed


def _record_backward(model: ComposedCausalLM, cut: int, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    arguments: dict[str, Any] = {name: value for name, value in batch.items() if name == "attention_mask"}
    with torch.enable_grad(), _recording(model, cut, ends_run=False) as recorder:
        below = cast(Handover, model.run(batch["input_ids"], 0, cut, kind=CallKind.TRIAL, **arguments))
        if not below.parcel.hidden_BTD.requires_grad:
            raise ValueError(f"no gradient crosses cut {cut}: nothing below it is trained")
        # A leaf at the cut, so that the gradients of parameters are neither computed nor added up.
        leaf = below.parcel.hidden_BTD.detach().requires_grad_()
        from_cut = replace(below, parcel=replace(below.parcel, hidden_BTD=leaf))
        finished = cast(Finished, model.run(from_cut, cut, kind=CallKind.TRIAL, labels=batch["labels"], **arguments))
        torch.autograd.grad(finished.output.loss, leaf)
    return [*recorder.crossed, leaf.detach()]


def _check_memory(num_pieces: int, kept: list[torch.Tensor], dtype: torch.dtype, max_mib: float | None) -> None:
    piece_mib = sum(tensor[0].numel() for tensor in kept) * dtype.itemsize / _MIB
    if max_mib is not None and num_pieces * piece_mib > max_mib:
        raise ValueError(
            f"what crosses for {num_pieces} pieces takes {num_pieces * piece_mib:.0f} MiB as {dtype}, and the limit is "
            f"{max_mib:g} MiB; {int(max_mib / piece_mib)} pieces fit"
        )


def _as_kept(crossed_BTD: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # A few architectures have several streams of hidden states, (B, T, streams, D); a clone shares nothing with the run.
    kept = crossed_BTD.flatten(2).to("cpu", dtype, copy=True)
    if not torch.isfinite(kept).all() and torch.isfinite(crossed_BTD).all():
        raise ValueError(
            f"{dtype} cannot hold the values that cross, which reach {crossed_BTD.abs().max().item():g}; use float32"
        )
    return kept
