"""Keeping transformers and Lightning off the terminal where this library speaks for itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Hide transformers' own bar and report while weights are loaded; problems are raised instead. Restores what was set."""
    had_bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


@contextmanager
def without_lightning_advice() -> Iterator[None]:
    """Hide warnings of Lightning that no user of this library can act upon."""
    with warnings.catch_warnings():
        # Advice to use worker processes: the packed blocks are in memory already, so workers would only cost.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # The trainer knows the bottom's device alone: the other parts may well use the GPU, and who keeps off it has said so.
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        # Lightning's list of what GPUs can do is not complete; without a figure there is no share of it to log.
        warnings.filterwarnings("ignore", message=".*FLOPs not found for .*")
        # Lightning calls a function that torch has deprecated.
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)")
        yield
