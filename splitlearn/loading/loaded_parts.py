"""The parts that were loaded together, with the receipt of their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splitlearn.checkpoint import CheckpointSource, LoadReceipt
from splitlearn.cut import SplitPlan
from splitlearn.model import SplitModel, ends_elsewhere


@dataclass(frozen=True)
class LoadedParts:
    """Parts of one model and the cost of loading them.

    Attributes:
        parts: the loaded parts by name, in the order in which data passes them.
        receipt: the cost of loading; it names tied tensors whose other end is in none of these parts.
    """

    parts: Mapping[str, SplitModel]
    receipt: LoadReceipt

    @classmethod
    def of(cls, parts: Sequence[SplitModel], source: CheckpointSource, plan: SplitPlan, left_out: Sequence[str]) -> LoadedParts:
        """Gather parts and their receipts.

        Args:
            parts: the parts, in the order in which data passes them.
            source: the checkpoint they come from.
            plan: the cut.
            left_out: the checkpoint's tensors that the model does not have.
        """
        receipt = LoadReceipt(
            model=source.name,
            commit=source.commit,
            split_point_1=plan.split_point_1,
            split_point_2=plan.split_point_2,
            dtype=" / ".join(dict.fromkeys(str(part.blueprint.dtype).removeprefix("torch.") for part in parts)),
            parts=tuple(part.receipt for part in parts if part.receipt is not None),
            left_out=tuple(left_out),
            tied_elsewhere=ends_elsewhere(parts),
        )
        return cls({part.spec.name: part for part in parts}, receipt)

    def __getitem__(self, name: str) -> SplitModel:
        """Return a part by its name."""
        return self.parts[name]
