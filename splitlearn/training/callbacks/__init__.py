"""Callbacks, one a file."""

from splitlearn.training.callbacks.attacks import Attacks, AttackSuite
from splitlearn.training.callbacks.best_checkpoint import BestCheckpoint
from splitlearn.training.callbacks.evaluation import Evaluation
from splitlearn.training.callbacks.exact_resume import ExactResume, check_data_order, keeping_generators
from splitlearn.training.callbacks.federated_rounds import FederatedRounds, tells_tokens
from splitlearn.training.callbacks.find_callback import find_callback
from splitlearn.training.callbacks.finders import FindBatchSize, FindLearningRate
from splitlearn.training.callbacks.finite_loss import DivergedError, FiniteLoss
from splitlearn.training.callbacks.last_checkpoint import LAST, LastCheckpoint
from splitlearn.training.callbacks.memory_report import MemoryReport
from splitlearn.training.callbacks.part_bytes import PartBytes
from splitlearn.training.callbacks.privacy_loss import PrivacyLoss, privacy_of
from splitlearn.training.callbacks.progress import LineProgress, make_progress
from splitlearn.training.callbacks.run_figures import RunFigures, saved_figures
from splitlearn.training.callbacks.run_identity import RunIdentity
from splitlearn.training.callbacks.step_phases import StepPhases
from splitlearn.training.callbacks.token_throughput import TokenThroughput, count_tokens
from splitlearn.training.callbacks.traffic import Traffic

__all__ = [
    "LAST",
    "AttackSuite",
    "Attacks",
    "BestCheckpoint",
    "DivergedError",
    "Evaluation",
    "ExactResume",
    "FederatedRounds",
    "FindBatchSize",
    "FindLearningRate",
    "FiniteLoss",
    "LastCheckpoint",
    "LineProgress",
    "MemoryReport",
    "PartBytes",
    "PrivacyLoss",
    "RunFigures",
    "RunIdentity",
    "StepPhases",
    "TokenThroughput",
    "Traffic",
    "check_data_order",
    "count_tokens",
    "find_callback",
    "keeping_generators",
    "make_progress",
    "privacy_of",
    "saved_figures",
    "tells_tokens",
]
