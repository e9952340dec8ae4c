"""Split learning for causal language models: cut a model in three, load each part incrementally, train them together."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitlearn.app import attack, train
    from splitlearn.cut import CutError, SplitPlan
    from splitlearn.loading import ModelFactory, ModelRequest
    from splitlearn.memory import MemoryTracker
    from splitlearn.model import ComposedCausalLM, SplitModel
    from splitlearn.report import Budgets, read_runs, recommend
    from splitlearn.settings import compose
    from splitlearn.training import SplitCausalLM

_HOMES = {
    "Budgets": "splitlearn.report",
    "ComposedCausalLM": "splitlearn.model",
    "CutError": "splitlearn.cut",
    "MemoryTracker": "splitlearn.memory",
    "ModelFactory": "splitlearn.loading",
    "ModelRequest": "splitlearn.loading",
    "SplitCausalLM": "splitlearn.training",
    "SplitModel": "splitlearn.model",
    "SplitPlan": "splitlearn.cut",
    "attack": "splitlearn.app",
    "compose": "splitlearn.settings",
    "read_runs": "splitlearn.report",
    "recommend": "splitlearn.report",
    "train": "splitlearn.app",
}

__all__ = [
    "Budgets",
    "ComposedCausalLM",
    "CutError",
    "MemoryTracker",
    "ModelFactory",
    "ModelRequest",
    "SplitCausalLM",
    "SplitModel",
    "SplitPlan",
    "attack",
    "compose",
    "read_runs",
    "recommend",
    "train",
]


# transformers and PEFT import these where they are installed, which then tell of kernels for other machines.
for _name in ("torchao", "torch.utils._pytree", "bitsandbytes"):
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    # Imported on first use: torch and transformers take seconds, and `import splitlearn` should not.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'splitlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
