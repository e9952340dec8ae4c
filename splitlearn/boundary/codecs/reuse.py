"""Rows that have hardly moved since they were last sent are not sent again.

Shapes: B rows, T tokens, D hidden size; M tokens have moved.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns
from splitlearn.boundary.codecs.exact import Exact
from splitlearn.boundary.codecs.packing import pack, unpack
from splitlearn.naming import named

_GIB = 2**30


class Reuse(Codec):
    """Sends a token of a training example only if its numbers have moved since it was last sent (SplitCom, 2602.10564).

    Both ends keep, for each example, what the receiver has last got of it, and the receiver goes on with that for the tokens
    that are not sent. A token has moved if its distance from what was last sent is more than ``threshold`` times the latter's
    norm. In the first epoch, and of examples for which there is no room, everything is sent. Evaluation, generation and
    recorded outputs are sent whole: their texts are not met again.

    Args:
        threshold: the relative distance from which on a token is sent again; 0 sends each one that differs, ``inf`` none again.
        max_gib: the most that is kept of examples, in GiB of main memory for each direction at each cut; the first examples to
            come are kept. Checkpoints hold it too.

    Raises:
        ValueError: a setting is out of range.
    """

    name = "reuse"
    takes_error_feedback = False
    sizes_depend_on_data = True
    needs_examples = True

    def __init__(self, threshold: float = 0.05, max_gib: float = 1.0) -> None:
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not threshold >= 0:
            raise ValueError(f"{named('threshold')} is {threshold!r}; give a relative distance of at least 0, or inf")
        if isinstance(max_gib, bool) or not isinstance(max_gib, (int, float)) or not 0 < max_gib < math.inf:
            raise ValueError(f"{named('max_gib')} is {max_gib!r}; give a positive number")
        self.threshold, self.max_gib = float(threshold), float(max_gib)
        # Encodes the tokens that are sent.
        self._codec: Codec = Exact()
        # By example; each of shape (T, D), on the CPU.
        self._kept: dict[int, torch.Tensor] = {}
        self._num_bytes = 0

    def around(self, codec: Codec) -> Reuse:
        """Return a codec of the same settings that encodes the tokens that are sent with another.

        Args:
            codec: the other.

        Raises:
            ValueError: it needs whole examples.
        """
        if not codec.takes_error_feedback:
            raise ValueError(f"{codec.name} cannot follow reuse, which sends single tokens and no whole examples")
        made = Reuse(self.threshold, self.max_gib)
        made._codec, made.name = codec, f"reuse, then {codec.name}"
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Reuse:
        """Return a copy with a memory of its own; what is kept by now is shared, since it is replaced and never written to."""
        copied = copy.copy(self)
        copied._codec, copied._kept = copy.deepcopy(self._codec, memo), dict(self._kept)
        return copied

    @property
    def num_bytes(self) -> int:
        """Bytes of what is kept."""
        return self._num_bytes

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return ``values`` (M, D), as the inner codec has them, and ``moved``, a bit for each token, shape (B, ceil(T / 8)).

        Raises:
            ValueError: the examples have no ids.
        """
        if not _is_reused(context):
            return self._codec.encode(tensor, context)
        if tensor.is_meta:
            return self._first_epoch(tensor, context)
        last, known_B = self._last(context, tensor)
        moved_BT = ~known_B.unsqueeze(1) | _has_moved(tensor, last, self.threshold)
        chosen = tensor[moved_BT]
        columns = self._codec.encode(chosen, _of_tokens(context, chosen.shape))
        # The sender keeps what the receiver will have, also where the inner codec loses something.
        last[moved_BT] = self._codec.decode(columns, tensor.dtype, _of_tokens(context, chosen.shape))
        self._keep(context, last)
        return {**columns, "moved": pack(moved_BT, 1)}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return what is kept of the examples, with the tokens that were sent in their places."""
        if not _is_reused(context):
            return self._codec.decode(columns, dtype, context)
        if columns["moved"].is_meta:
            return torch.empty(context.shape, dtype=dtype, device="meta")
        moved_BT = unpack(columns["moved"], 1, context.shape[1]).bool()
        own = {name: column for name, column in columns.items() if name != "moved"}
        chosen_shape = torch.Size((int(moved_BT.sum()), *context.shape[2:]))
        sent = self._codec.decode(own, dtype, _of_tokens(context, chosen_shape))
        whole, _ = self._last(context, sent)
        whole[moved_BT] = sent
        self._keep(context, whole)
        return whole

    def state_dict(self) -> dict[str, Any]:
        """Return ``rows``, the examples' ids (N), and ``kept``, one tensor of shape (T, D) for each."""
        return {"rows": torch.tensor(list(self._kept)), "kept": list(self._kept.values())} if self._kept else {}

    def receiver_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return all: both ends keep what the receiver has last got."""
        return dict(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` returned."""
        kept = zip(state["rows"].tolist(), state["kept"], strict=True) if state else ()
        self._kept = {row: tensor.cpu() for row, tensor in kept}
        self._num_bytes = sum(tensor.nbytes for tensor in self._kept.values())

    def _first_epoch(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return columns of the sizes of the first epoch, for tensors of the meta device, which planning sends."""
        chosen = tensor.flatten(0, 1)
        moved_BT = torch.ones(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
        return {**self._codec.encode(chosen, _of_tokens(context, chosen.shape)), "moved": pack(moved_BT, 1)}

    def _last(self, context: CodecContext, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what was last sent of each example, shape (B, T, D), zeros if nothing was; and of which something was (B)."""
        nothing = torch.zeros(context.shape[1:], dtype=like.dtype)
        kept = [self._kept.get(row) for row in _rows(context)]
        # A batch may be padded to another length than the example's last one.
        fitting = [tensor if tensor is not None and tensor.shape == nothing.shape else None for tensor in kept]
        last = torch.stack([nothing if tensor is None else tensor for tensor in fitting])
        known_B = torch.tensor([tensor is not None for tensor in fitting])
        return last.to(like.device), known_B.to(like.device)

    def _keep(self, context: CodecContext, whole: torch.Tensor) -> None:
        """Keep what the receiver has now of each example, as far as there is room for it."""
        # A copy also on the CPU: the receiver's part may write to the tensor that it gets.
        copies = whole.detach().to("cpu", copy=True)
        for row, tensor in zip(_rows(context), copies, strict=True):
            before = self._kept.get(row)
            num_bytes = self._num_bytes + tensor.nbytes - (0 if before is None else before.nbytes)
            if num_bytes <= self.max_gib * _GIB:
                self._kept[row], self._num_bytes = tensor.clone(), num_bytes


def _is_reused(context: CodecContext) -> bool:
    return context.kind is CallKind.TRAIN and context.place == 0


def _rows(context: CodecContext) -> list[int]:
    if context.rows_B is None:
        raise ValueError(
            "the codec reuse needs data whose examples have ids from epoch to epoch; use blocks (packing=joined or isolated) "
            "that are not streamed, or another codec"
        )
    return [int(row) for row in context.rows_B.tolist()]


def _of_tokens(context: CodecContext, shape: torch.Size) -> CodecContext:
    """Return the context of some tokens of a batch, which are no rows of examples any more."""
    return replace(context, shape=shape, rows_B=None, attention_mask=None)


def _has_moved(tensor: torch.Tensor, last: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return which tokens have moved, shape (B, T)."""
    now, before = tensor.flatten(2).float(), last.flatten(2).float()
    # Small differences would be 0 once they are squared for the norm.
    differs_BT = (now != before).any(dim=-1)
    if threshold == 0:
        return differs_BT
    if math.isinf(threshold):
        return torch.zeros_like(differs_BT)
    distances_BT = torch.linalg.vector_norm(now - before, dim=-1)
    # Negated, so that a token that is no longer a number is sent.
    return ~(distances_BT <= threshold * torch.linalg.vector_norm(before, dim=-1)) & differs_BT
