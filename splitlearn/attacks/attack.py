"""What every attack is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from splitlearn.attacks.budget import Budget
from splitlearn.attacks.result import AttackResult
from splitlearn.attacks.view import AttackerView


class Attack(ABC):
    """Recovers text from what crosses a cut.

    Attributes:
        name: as in settings, tables and JSON.
    """

    name: str

    @abstractmethod
    def run(self, view: AttackerView, budget: Budget, rng: torch.Generator) -> AttackResult:
        """Attack the test pieces of a view.

        Args:
            view: what the attacker sees; its tensors are not written to.
            budget: the most that the attack may use.
            rng: the generator of all its random numbers. torch's default generators are left as they were.

        Returns:
            What was recovered. An attack that its budget ends returns what it has by then, and says which limit it was.

        Raises:
            ValueError: the view lacks something that the attack needs.
        """
