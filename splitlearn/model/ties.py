"""Parameters that a model ties together, usually the head to the token embedding, when the cut puts them into two parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from splitlearn.model.split_model import SplitModel
from splitlearn.model.tied_steps import watch_steps

# Number of elements of two tensors that are cast and compared at a time.
_PIECE = 2**22


@dataclass(frozen=True)
class Tie:
    """Two parameters that the unsplit model keeps equal.

    Attributes:
        owner: the part that holds the tensor the unsplit model keeps, and its name there.
        borrower: the part that uses the same tensor under another name, and that name.
    """

    owner: tuple[SplitModel, str]
    borrower: tuple[SplitModel, str]

    @property
    def parameters(self) -> tuple[nn.Parameter, nn.Parameter]:
        """The owner's and the borrower's parameter."""
        (owner, owner_name), (borrower, borrower_name) = self.owner, self.borrower
        return owner.model.get_parameter(owner_name), borrower.model.get_parameter(borrower_name)

    @property
    def is_shared(self) -> bool:
        """Whether both names mean one parameter, as they do when both parts are on one device."""
        owned, borrowed = self.parameters
        return owned is borrowed


def find_ties(parts: Sequence[SplitModel]) -> list[Tie]:
    """Return the ties whose two ends are both held by ``parts``.

    Where loading left a tie unsettled because its ends were loaded apart, the two parameters are compared now; if their values
    differ, they are not tied.

    Args:
        parts: some or all parts of one model.
    """
    if not parts:
        return []
    blueprint = parts[0].blueprint
    ties = []
    for borrowed, owned in blueprint.ties.items():
        owner, borrower = _holder(owned, parts), _holder(borrowed, parts)
        if owner is None or borrower is None:
            continue
        tie = Tie(owner, borrower)
        if borrowed not in blueprint.unsettled_ties or become_equal(*tie.parameters):
            ties.append(tie)
    return ties


def ends_elsewhere(parts: Sequence[SplitModel]) -> dict[str, str]:
    """Return the ties of which ``parts`` hold one end only: trained apart, the two ends would no longer be equal.

    Args:
        parts: some or all parts of one model.

    Returns:
        From the tensor that is held to the one that is not, by the unsplit model's names.
    """
    ties = parts[0].blueprint.ties if parts else {}
    ends = [pair for tied, owner in ties.items() for pair in ((tied, owner), (owner, tied))]
    return {here: other for here, other in ends if _holder(here, parts) is not None and _holder(other, parts) is None}


@torch.no_grad()
def become_equal(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether two tensors have equal values once both are cast to a dtype; None leaves each as it is.

    They are compared piece by piece, so that neither is cast as a whole.

    Args:
        one: a tensor of any shape.
        other: a tensor, perhaps of another shape, which makes them unequal.
        dtype: the dtype to compare in.
    """
    if one.shape != other.shape:
        return False
    if one.dtype == other.dtype and one.data_ptr() == other.data_ptr():
        return True
    pieces = zip(one.flatten().split(_PIECE), other.flatten().split(_PIECE), strict=True)
    return all(torch.equal(left.to(dtype or left.dtype), right.to(left.device, dtype or left.dtype)) for left, right in pieces)


def _holder(name: str, parts: Sequence[SplitModel]) -> tuple[SplitModel, str] | None:
    for part in parts:
        if part.blueprint.belongs_to(name, part.spec):
            return part, part.blueprint.local_name(name, part.spec)
    return None


def tie_parts(parts: Sequence[SplitModel], devices: Mapping[str, str]) -> None:
    """Make tied parameters of parts that live on one device one parameter, owned by the lower part.

    Args:
        parts: parts of one model; the last may not have been moved to its device yet.
        devices: the device of each part by name.
    """
    for tie in find_ties(parts):
        (owner, _), (borrower, name) = tie.owner, tie.borrower
        if devices[owner.spec.name] == devices[borrower.spec.name] and not tie.is_shared:
            path, _, leaf = name.rpartition(".")
            setattr(borrower.model.get_submodule(path), leaf, tie.parameters[0])
            watch_steps(tie.parameters[0])
