"""The bytes that each part keeps for the backward pass of a batch, counted as autograd saves them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch

from splitlearn.model import SplitModel, raw_tensors


class SavedActivations:
    """Counts what one forward pass of the training keeps, by part.

    It looks at the tensors that autograd saves through autograd's own hooks, and hands them on as they are, so that values and
    rounding stay the same. Storages count once, for the part that saved them first; parameters and buffers do not count. What
    is freed before the backward pass begins, as the logits of a loss that is computed piece by piece, does not count either.

    Args:
        parts: the parts to count.
    """

    def __init__(self, parts: Sequence[SplitModel]) -> None:
        self._parts = {part.spec.name: part for part in parts}
        self._hooks = ExitStack()
        self._saved: list[tuple[str, weakref.ref[torch.Tensor]]] = []
        self._is_armed = self._is_counting = False
        self._part: str | None = None

    def arm(self) -> None:
        """Count the coming forward pass."""
        self._is_armed = True

    def enter(self, stage: str) -> None:
        """Count for a part from now on.

        Args:
            stage: a part's name. At the name of a cut nothing changes: what is saved there belongs to the part below.
        """
        if self._is_armed:
            self._is_armed, self._is_counting = False, True
            self._hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack))
        if not stage.startswith("cut"):
            self._part = stage if stage in self._parts else None

    def stop(self) -> dict[str, int] | None:
        """End counting, before the backward pass frees what is kept.

        Returns:
            For each part the bytes that are kept; None if nothing was counted.
        """
        self._hooks.close()
        was_counting, saved = self._is_counting, self._saved
        self._is_armed, self._is_counting, self._part, self._saved = False, False, None, []
        if not was_counting:
            return None
        seen = {_storage(raw) for part in self._parts.values() for tensor in _own_tensors(part) for raw in raw_tensors(tensor)}
        kept = dict.fromkeys(self._parts, 0)
        for part, reference in saved:
            tensor = reference()
            for raw in () if tensor is None else raw_tensors(tensor):
                if _storage(raw) not in seen:
                    seen.add(_storage(raw))
                    kept[part] += raw.untyped_storage().nbytes()
        return kept

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._part is not None:
            # A weak reference, so that nothing lives longer for being counted.
            self._saved.append((self._part, weakref.ref(tensor)))
        return tensor


def _unpack(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _own_tensors(part: SplitModel) -> Iterable[torch.Tensor]:
    yield from part.parameters()
    yield from part.buffers()


def _storage(tensor: torch.Tensor) -> tuple[str, int]:
    return str(tensor.device), tensor.untyped_storage().data_ptr()
