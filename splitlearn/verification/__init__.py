"""Showing that the parts of a checkpoint are the unsplit model."""

from splitlearn.verification.after_loading import changed_after_loading
from splitlearn.verification.outcome import Outcome, print_outcomes
from splitlearn.verification.streamed import verify_streamed
from splitlearn.verification.whole import verify_whole

__all__ = ["Outcome", "changed_after_loading", "print_outcomes", "verify_streamed", "verify_whole"]
