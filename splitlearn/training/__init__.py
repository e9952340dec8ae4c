"""Training the three parts with Lightning."""

from splitlearn.training.module import SplitCausalLM
from splitlearn.training.optimization import Optimization, PartOptimization, unique_parameters
from splitlearn.training.part_memory import PartMemory, part_memory
from splitlearn.training.precision import SplitPrecision
from splitlearn.training.strategy import SplitStrategy

__all__ = [
    "Optimization",
    "PartMemory",
    "PartOptimization",
    "SplitCausalLM",
    "SplitPrecision",
    "SplitStrategy",
    "part_memory",
    "unique_parameters",
]
