"""A run on disk: its folder, the configuration that it ran with, and the record of how it went."""

from splitlearn.runs.config import CONFIG_FILE, read_run_config
from splitlearn.runs.folder import open_run_folder
from splitlearn.runs.lock import HOLDER_FILE, LOCK_FILE, find_holder, hold_run_folder
from splitlearn.runs.summary import SUMMARY_FILE, RunSummary, read_summary, write_summary
from splitlearn.runs.table import print_summary

__all__ = [
    "CONFIG_FILE",
    "HOLDER_FILE",
    "LOCK_FILE",
    "SUMMARY_FILE",
    "RunSummary",
    "find_holder",
    "hold_run_folder",
    "open_run_folder",
    "print_summary",
    "read_run_config",
    "read_summary",
    "write_summary",
]
