"""Attacks on the data that cross a cut: the texts that an honest-but-curious party can recover from them."""

from splitlearn.attacks.attack import Attack
from splitlearn.attacks.budget import Budget, BudgetMeter, BudgetUse
from splitlearn.attacks.result import AttackResult, Baseline, Reconstruction
from splitlearn.attacks.view import BACKWARD, FORWARD, AttackerView, Pieces, PublicModel

__all__ = [
    "BACKWARD",
    "FORWARD",
    "Attack",
    "AttackResult",
    "AttackerView",
    "Baseline",
    "Budget",
    "BudgetMeter",
    "BudgetUse",
    "Pieces",
    "PublicModel",
    "Reconstruction",
]
