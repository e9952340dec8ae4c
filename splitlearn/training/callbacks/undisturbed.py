"""Doing other work in the middle of a training, which goes on as if nothing had happened."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from splitlearn.training.callbacks.exact_resume import keeping_generators
from splitlearn.training.callbacks.find_callback import find_callback
from splitlearn.training.callbacks.run_figures import RunFigures
from splitlearn.training.module import SplitCausalLM


@contextmanager
def undisturbed(trainer: Trainer, module: SplitCausalLM) -> Iterator[None]:
    """Keep a training and its figures as they are, whatever is done meanwhile with copies or in evaluation mode.

    Random numbers (Python's, numpy's, torch's, those of parts and cuts) are afterwards where they were, and so are all modes.
    Layers are not compiled meanwhile. The seconds count neither as training nor towards ``trainer.max_time``, and memory taken
    meanwhile is in none of the run's peaks.

    Args:
        trainer: the run's trainer, between two steps.
        module: what is trained.
    """
    figures, timer = find_callback(trainer, RunFigures), find_callback(trainer, Timer)
    with ExitStack() as stack:
        # Clocks stop first and go on last: giving back memory takes time, too.
        if figures is not None:
            stack.enter_context(figures.paused())
        if timer is not None:
            stack.enter_context(_paused_timer(timer))
        stack.enter_context(module.tracker.paused())
        stack.enter_context(keeping_generators())
        stack.enter_context(module.generators.kept())
        stack.enter_context(module.composed.evaluating())
        # Layers that are compiled for other shapes here would be called in training, too.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _paused_timer(timer: Timer) -> Iterator[None]:
    """Keep Lightning's timer from counting."""
    began_s = time.monotonic()
    try:
        yield
    finally:
        if timer.start_time() is not None and timer.end_time() is None:
            timer._offset = timer._offset - (time.monotonic() - began_s)  # type: ignore[assignment]
