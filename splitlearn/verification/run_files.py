"""Reading the files that a run has saved to their ends: damage, checksums, and numbers that are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from splitlearn.checkpoint import (
    check_plain,
    read_part_file,
    read_tensor_file,
    read_torch_file,
    verify_tensor_file,
    verify_torch_file,
)
from splitlearn.redaction import reason_of
from splitlearn.terminal import make_console
from splitlearn.verification.finite import describe_non_finite, find_non_finite

_REMEDY = "use another checkpoint, or train again"


@dataclass(frozen=True)
class FileOutcome:
    """The check of one file of a run.

    Attributes:
        file: its name in the run's folder.
        num_bytes: its length in bytes.
        problem: the fault in words; None if there is none.
    """

    file: str
    num_bytes: int
    problem: str | None


def verify_saved_files(folder: Path) -> list[FileOutcome]:
    """Read a run's parts, adapters and checkpoints to their ends.

    Args:
        folder: the run's folder.

    Returns:
        One outcome for each file, in order.
    """
    patterns = ("parts/*.pt", "adapters/*.safetensors", "checkpoints/*.ckpt")
    return [_verify(path, folder) for pattern in patterns for path in sorted(folder.glob(pattern))]


def verify_saved_file(path: Path) -> None:
    """Compare a file of a run with the checksum that it carries, as torch files and adapters do.

    Raises:
        CheckpointError: it is damaged.
        FileNotFoundError: there is no such file.
    """
    if path.suffix == ".safetensors":
        verify_tensor_file(path, _REMEDY)
    else:
        verify_torch_file(path, _REMEDY)


def print_files(title: str, outcomes: Sequence[FileOutcome]) -> None:
    """Print one row for each file."""
    table = Table(title=title, title_justify="left")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    table.add_column("verdict")
    for outcome in outcomes:
        table.add_row(outcome.file, f"{outcome.num_bytes:,}", "whole" if outcome.problem is None else "DAMAGED")
    make_console().print(table)
    for outcome in outcomes:
        if outcome.problem is not None:
            print(f"{outcome.file}: {outcome.problem}")


def _verify(path: Path, folder: Path) -> FileOutcome:
    problem = None
    try:
        verify_saved_file(path)
        counts = find_non_finite(_tensors(path))
        if counts:
            problem = f"it holds {describe_non_finite(counts)}"
    except (ValueError, OSError) as error:
        problem = reason_of(error)
    return FileOutcome(str(path.relative_to(folder)), path.stat().st_size, problem)


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if path.suffix == ".safetensors":
        yield from read_tensor_file(path, _REMEDY).items()
    elif path.suffix == ".pt":
        yield from read_part_file(path)[1].items()
    else:
        content = read_torch_file(path, "checkpoint of a run", _REMEDY)
        trained: Any = content.get("state_dict") if isinstance(content, dict) else None
        yield from check_plain(trained if isinstance(trained, dict) else {}, str(path)).items()
