"""What the command line does, as functions: each takes a configuration from `compose`.

Notebooks and tests call them; the command line does the same.
"""

from splitlearn.app.attacking import attack
from splitlearn.app.checkpoints import FinishedRunError
from splitlearn.app.configuration import naming_settings
from splitlearn.app.evaluating import evaluate
from splitlearn.app.finished_runs import converse, export, generate
from splitlearn.app.models import plan_split
from splitlearn.app.planning import plan
from splitlearn.app.serving import serve
from splitlearn.app.training import TrainResult, train
from splitlearn.app.verifying import verify, verify_run
from splitlearn.settings import compose, conf_folder

__all__ = [
    "FinishedRunError",
    "TrainResult",
    "attack",
    "compose",
    "conf_folder",
    "converse",
    "evaluate",
    "export",
    "generate",
    "naming_settings",
    "plan",
    "plan_split",
    "serve",
    "train",
    "verify",
    "verify_run",
]
