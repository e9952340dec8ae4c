"""A run on disk: its folder, the configuration that it ran with, and the record of how it went."""

from splitlearn.runs.config import CONFIG_FILE, HYDRA_FOLDER, read_run_config, read_run_overrides
from splitlearn.runs.folder import open_run_folder
from splitlearn.runs.forms import BASE_FORM, METRICS_FORM, misfit
from splitlearn.runs.hydra_files import other_setting, write_hydra_files
from splitlearn.runs.lineage import checkpoint_run, checkpoint_starts, mark_checkpoint, refuse_other_run
from splitlearn.runs.lock import HOLDER_FILE, LOCK_FILE, HeldFolderError, Holder, find_holder, hold_run_folder
from splitlearn.runs.privacy_words import privacy_in_words
from splitlearn.runs.stamp import Stamp, new_run_id
from splitlearn.runs.summary import RUNNING, SUMMARY_FILE, RunSummary, read_summary, write_summary
from splitlearn.runs.table import print_summary

__all__ = [
    "BASE_FORM",
    "CONFIG_FILE",
    "HOLDER_FILE",
    "HYDRA_FOLDER",
    "LOCK_FILE",
    "METRICS_FORM",
    "RUNNING",
    "SUMMARY_FILE",
    "HeldFolderError",
    "Holder",
    "RunSummary",
    "Stamp",
    "checkpoint_run",
    "checkpoint_starts",
    "find_holder",
    "hold_run_folder",
    "mark_checkpoint",
    "misfit",
    "new_run_id",
    "open_run_folder",
    "other_setting",
    "print_summary",
    "privacy_in_words",
    "read_run_config",
    "read_run_overrides",
    "read_summary",
    "refuse_other_run",
    "write_hydra_files",
    "write_summary",
]
