"""Parts and adapters of a finished run as one ordinary Hugging Face folder."""

from splitlearn.export.folder import export_run
from splitlearn.export.restore import load_base_part, restore
from splitlearn.export.run_record import RunRecord

__all__ = [
    "RunRecord",
    "export_run",
    "load_base_part",
    "restore",
]
