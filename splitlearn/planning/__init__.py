"""The cost of a cut, known without weights, and cuts chosen by cost."""

from splitlearn.planning.automatic import choose_cut
from splitlearn.planning.computing import least_compute_s
from splitlearn.planning.costs import METHODS, CutCost, Need, PartCost, cost_of
from splitlearn.planning.fit import DoesNotFitError, check_fit, least_methods
from splitlearn.planning.report import print_plan
from splitlearn.planning.training_memory import planned_by_party

__all__ = [
    "METHODS",
    "CutCost",
    "DoesNotFitError",
    "Need",
    "PartCost",
    "check_fit",
    "choose_cut",
    "cost_of",
    "least_compute_s",
    "least_methods",
    "planned_by_party",
    "print_plan",
]
