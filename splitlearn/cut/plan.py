"""Where the three parts of a model begin and end.

A model of ``n`` decoder layers is cut at two split points ``0 <= split_point_1 <= split_point_2 <= n``: bottom holds the
embeddings and layers ``[0, split_point_1)``, trunk layers ``[split_point_1, split_point_2)``, top layers
``[split_point_2, n)`` with the final norm and the language-model head.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

PART_NAMES = ("bottom", "trunk", "top")


class CutError(ValueError):
    """Two split points that do not cut this model, or not on this machine: the message names the value and what would do."""


def check_part_names(names: Collection[str], setting: str) -> list[str]:
    """Return names of parts as a list.

    Args:
        names: the names.
        setting: name of the setting in messages. ``parts`` may not be empty.

    Raises:
        ValueError: ``names`` is one string, or contains a name that no part has.
    """
    if isinstance(names, str):
        raise ValueError(f"{setting} is {names!r}; give a list such as ['trunk']")
    unknown = [name for name in names if name not in PART_NAMES]
    if unknown or (setting == "parts" and not names):
        raise ValueError(f"{setting} is {list(names)}; name one or more of {', '.join(PART_NAMES)}")
    return list(names)


@dataclass(frozen=True)
class PartSpec:
    """One part of a cut model.

    Attributes:
        name: ``"bottom"``, ``"trunk"`` or ``"top"``.
        start: first decoder layer of the part, as numbered in the unsplit model.
        end: one past its last decoder layer.
        num_layers: decoder layers of the unsplit model.
    """

    name: str
    start: int
    end: int
    num_layers: int

    @property
    def has_embedding(self) -> bool:
        """Whether the part holds the token embedding and all that comes before the first layer."""
        return self.name == "bottom"

    @property
    def has_head(self) -> bool:
        """Whether the part holds the final norm and the language-model head."""
        return self.name == "top"

    def describe(self) -> str:
        """Return the part's contents in words, for example ``"layers 0-7 + embedding"``."""
        if self.start == self.end:
            layers = "no layers"
        elif self.end - self.start == 1:
            layers = f"layer {self.start}"
        else:
            layers = f"layers {self.start}-{self.end - 1}"
        extra = " + embedding" if self.has_embedding else " + final norm + head" if self.has_head else ""
        return layers + extra


@dataclass(frozen=True)
class SplitPlan:
    """The cut of one model, checked when it is made.

    Args:
        num_layers: decoder layers of the unsplit model, at least 1.
        split_point_1: first layer of the trunk.
        split_point_2: first layer of the top. Equal split points leave the trunk without layers.

    Raises:
        CutError: the numbers are not whole numbers with ``0 <= split_point_1 <= split_point_2 <= num_layers``.
    """

    num_layers: int
    split_point_1: int
    split_point_2: int

    def __post_init__(self) -> None:
        for field in ("num_layers", "split_point_1", "split_point_2"):
            value = getattr(self, field)
            # bool is a subclass of int, but no number of layers.
            if isinstance(value, bool) or not isinstance(value, int):
                raise CutError(f"{field} is {value!r} ({type(value).__name__}); it must be a whole number of layers")
        if self.num_layers < 1:
            raise CutError(f"num_layers is {self.num_layers}; a model that can be cut has at least 1 decoder layer")
        for field in ("split_point_1", "split_point_2"):
            value = getattr(self, field)
            if not 0 <= value <= self.num_layers:
                raise CutError(
                    f"{field} is {value}, but the model has {self.num_layers} decoder layers: choose 0 to {self.num_layers}"
                )
        if self.split_point_1 > self.split_point_2:
            raise CutError(
                f"split_point_1 is {self.split_point_1} and split_point_2 is {self.split_point_2}; "
                "the first must not be larger than the second (swap them?)"
            )

    @classmethod
    def from_fractions(cls, num_layers: int, fraction_1: float, fraction_2: float) -> SplitPlan:
        """Cut at fractions of the depth, rounded to the nearest layer (halves up), for example thirds.

        Args:
            num_layers: decoder layers of the unsplit model.
            fraction_1: share of the layers below the trunk, 0 to 1.
            fraction_2: share of the layers below the top, 0 to 1.

        Returns:
            The cut.

        Raises:
            CutError: a fraction is not a number from 0 to 1, or they are reversed.
        """
        for field, fraction in (("fraction_1", fraction_1), ("fraction_2", fraction_2)):
            if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
                raise CutError(f"{field} is {fraction!r}; it must be a number from 0 to 1")
        return cls(num_layers, math.floor(fraction_1 * num_layers + 0.5), math.floor(fraction_2 * num_layers + 0.5))

    @property
    def bottom(self) -> PartSpec:
        """Embeddings and layers ``[0, split_point_1)``."""
        return PartSpec("bottom", 0, self.split_point_1, self.num_layers)

    @property
    def trunk(self) -> PartSpec:
        """Layers ``[split_point_1, split_point_2)``."""
        return PartSpec("trunk", self.split_point_1, self.split_point_2, self.num_layers)

    @property
    def top(self) -> PartSpec:
        """Layers ``[split_point_2, num_layers)``, final norm and head."""
        return PartSpec("top", self.split_point_2, self.num_layers, self.num_layers)

    @property
    def parts(self) -> tuple[PartSpec, PartSpec, PartSpec]:
        """Bottom, trunk and top, in the order in which data passes them."""
        return self.bottom, self.trunk, self.top
