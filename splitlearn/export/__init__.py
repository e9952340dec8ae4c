"""Parts and adapters of a finished run as one ordinary Hugging Face folder."""

from splitlearn.export.folder import export_run
from splitlearn.export.restore import load_base_part, restore
from splitlearn.export.run_record import RunRecord
from splitlearn.export.saved_state import check_saved_state, load_saved_part, saved_adapters, saved_files

__all__ = [
    "RunRecord",
    "check_saved_state",
    "export_run",
    "load_base_part",
    "load_saved_part",
    "restore",
    "saved_adapters",
    "saved_files",
]
