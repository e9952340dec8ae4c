"""Showing that the parts of a checkpoint are the unsplit model, and that files are what was written."""

from splitlearn.verification.after_loading import changed_after_loading
from splitlearn.verification.finite import refuse_non_finite
from splitlearn.verification.outcome import Outcome, print_outcomes
from splitlearn.verification.run_files import FileOutcome, print_files, verify_saved_file, verify_saved_files
from splitlearn.verification.streamed import verify_streamed
from splitlearn.verification.whole import verify_whole

__all__ = [
    "FileOutcome",
    "Outcome",
    "changed_after_loading",
    "print_files",
    "print_outcomes",
    "refuse_non_finite",
    "verify_saved_file",
    "verify_saved_files",
    "verify_streamed",
    "verify_whole",
]
