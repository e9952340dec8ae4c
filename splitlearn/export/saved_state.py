"""What a run saved in the end, read only if all of it is of the state that the run's record speaks of."""

from __future__ import annotations

from pathlib import Path

from splitlearn.adapters import ADAPTER_FILE, read_stamp
from splitlearn.checkpoint import CheckpointError, read_part_file
from splitlearn.export.run_record import RunRecord
from splitlearn.model import SplitModel
from splitlearn.runs import SUMMARY_FILE, Stamp


def check_saved_state(record: RunRecord) -> None:
    """Refuse a run's folder whose saved parts or adapters are not all of the run's end; no weights are read.

    Raises:
        CheckpointError: a file is of another run or step, or damaged.
    """
    if record.checkpoint is not None:
        return
    for name, trained in record.trained.items():
        path = record.saved_part(name)
        if trained.trains_weights and path is not None:
            description, _ = read_part_file(path)
            _refuse_other(record, Stamp.from_plain(description.get("run")), path)
    if record.adapters.method is not None and (record.folder / "adapters" / ADAPTER_FILE).is_file():
        saved_adapters(record)


def saved_files(record: RunRecord) -> list[Path]:
    """Return the files that a completed run's trained model is read from: of its parts, and of its adapters."""
    parts = [record.saved_part(name) for name, trained in record.trained.items() if trained.trains_weights]
    adapters = record.folder / "adapters" / ADAPTER_FILE
    return [*(path for path in parts if path is not None), *([adapters] if record.adapters.method is not None else [])]


def load_saved_part(record: RunRecord, name: str) -> SplitModel:
    """Return a part as the run saved it, mapped from its file.

    Raises:
        FileNotFoundError: the run did not save the part.
        CheckpointError: the file is of another run or step, or damaged.
    """
    path = record.saved_part(name)
    if path is None:
        raise FileNotFoundError(
            f"{record.folder} has no parts/{name}.pt; take ckpt=last or ckpt=best, or train with save_parts=true"
        )
    part = SplitModel.load(path)
    _refuse_other(record, part.stamp, path)
    return part


def saved_adapters(record: RunRecord) -> Path:
    """Return the folder of the adapters that a run saved.

    Raises:
        FileNotFoundError: it holds none.
        CheckpointError: they are of another run or step.
    """
    folder = record.folder / "adapters"
    _refuse_other(record, read_stamp(folder), folder / ADAPTER_FILE)
    return folder


def _refuse_other(record: RunRecord, stamp: Stamp | None, path: Path) -> None:
    if stamp == record.summary.stamp:
        return
    of_file = "does not say which run it is of" if stamp is None else f"is of {stamp}"
    of_run = "is of a release that did not note it" if record.summary.stamp is None else f"is of {record.summary.stamp}"
    raise CheckpointError(
        f"{path} {of_file}, but {record.folder / SUMMARY_FILE} {of_run}, so the folder holds files of two states; take "
        "a whole one with ckpt=last or ckpt=best"
    )
