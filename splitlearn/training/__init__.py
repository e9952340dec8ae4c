"""Training the three parts with Lightning."""

from splitlearn.training.checkpoint_content import (
    CODECS_KEY,
    GENERATORS_KEY,
    check_layout,
    is_of_this_library,
    load_trained_tensors,
)
from splitlearn.training.checkpoint_fit import compare_bases
from splitlearn.training.checkpoint_io import WholeFileCheckpointIO
from splitlearn.training.checkpoint_schema import check_progress, check_schema
from splitlearn.training.client_settings import ClientSettings
from splitlearn.training.load_parts import load_for_training
from splitlearn.training.module import SplitCausalLM
from splitlearn.training.optimization import Optimization, PartOptimization, unique_parameters
from splitlearn.training.part_memory import PartMemory, bytes_by_party, part_memory
from splitlearn.training.part_owner import LocalOwner, PartElsewhere, StepOrder
from splitlearn.training.parts_module import PartsModule
from splitlearn.training.precision import SplitPrecision
from splitlearn.training.preparing import PreparedParts, prepare_parts
from splitlearn.training.refusals import parts_in_float32, refuse_divided_ties
from splitlearn.training.settings import TrainingSettings, parse_dtype
from splitlearn.training.shared_steps import ORDERS, SEQUENTIAL, SharedSteps, mean_gradients
from splitlearn.training.simulated_clients import SimulatedClients
from splitlearn.training.strategy import SplitStrategy, root_device_arguments
from splitlearn.training.token_window import count_supervised
from splitlearn.training.top_loss import LogitsLimit, TopLoss, TopLosses

__all__ = [
    "CODECS_KEY",
    "GENERATORS_KEY",
    "ORDERS",
    "SEQUENTIAL",
    "ClientSettings",
    "LocalOwner",
    "LogitsLimit",
    "Optimization",
    "PartElsewhere",
    "PartMemory",
    "PartOptimization",
    "PartsModule",
    "PreparedParts",
    "SharedSteps",
    "SimulatedClients",
    "SplitCausalLM",
    "SplitPrecision",
    "SplitStrategy",
    "StepOrder",
    "TopLoss",
    "TopLosses",
    "TrainingSettings",
    "WholeFileCheckpointIO",
    "bytes_by_party",
    "check_layout",
    "check_progress",
    "check_schema",
    "compare_bases",
    "count_supervised",
    "is_of_this_library",
    "load_for_training",
    "load_trained_tensors",
    "mean_gradients",
    "parse_dtype",
    "part_memory",
    "parts_in_float32",
    "prepare_parts",
    "refuse_divided_ties",
    "root_device_arguments",
    "unique_parameters",
]
