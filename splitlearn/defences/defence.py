"""What all defences have in common.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from splitlearn.boundary import BoundaryObserver

# From a device to the generator of a defence's random numbers there.
Draw = Callable[[torch.device], torch.Generator]


class Defence(BoundaryObserver):
    """Has the client's part learn, or send, what tells less about the text. It observes the cut where smashed data leave.

    Attributes:
        name: its name in settings.
        figures: scalars that it measured in the last batch, by the name under which it is logged.
    """

    name: str

    def __init__(self) -> None:
        self.figures: dict[str, torch.Tensor] = {}

    def step(self) -> None:
        """Take an optimizer step of whatever the defence itself trains; called before each step of the model."""

    def measured(self) -> dict[str, Any]:
        """Return, as plain values, what the defence must know to act after training; empty if nothing."""
        return {}

    def load_measured(self, values: Any) -> None:
        """Go on with what `measured` returned.

        Args:
            values: plain values of a record, which anybody may have written.

        Raises:
            ValueError: they are not of the form that `measured` gives them.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what the defence remembers from step to step, as tensors and plain values; empty if nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Args:
            state: tensors and plain values.
        """
