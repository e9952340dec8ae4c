"""Rows of tensors in memory, or in files that a later run finds again."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from splitlearn.memory import GIB
from splitlearn.naming import named

Columns = dict[str, torch.Tensor]


class RowStore:
    """Room for the rows of some tensors, and which of them are there.

    Args:
        example: tensors with a row each, for their names, shapes and dtypes.
        num_rows: how many rows there is room for.
        folder: where to keep them in files, which are filled further if they are there; None keeps them in memory.

    Raises:
        ValueError: the disk has no room.
    """

    def __init__(self, example: Columns, num_rows: int, folder: Path | None = None) -> None:
        self.num_rows = num_rows
        self._folder = folder
        shapes = {name: ((num_rows, *tensor.shape[1:]), tensor.dtype) for name, tensor in example.items()}
        shapes["present"] = (num_rows,), torch.bool
        if folder is not None:
            self._prepare(folder, {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in shapes.items()})
        self._columns = {name: self._make(name, shape, dtype) for name, (shape, dtype) in shapes.items()}
        self._present = self._columns.pop("present")

    def _make(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if self._folder is None:
            # Memory that is never written is never taken.
            return torch.zeros(shape, dtype=dtype)
        size = math.prod(shape)
        flat = torch.from_file(str(self._folder / name), shared=True, size=size, dtype=dtype)
        return flat.view(shape)

    @staticmethod
    def _prepare(folder: Path, sizes: Mapping[str, int]) -> None:
        """Make files of the wanted sizes, of which the disk has all blocks; those that are there are kept if all are whole."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = {folder / name: size for name, size in sizes.items()}
        if all(path.is_file() and path.stat().st_size == size for path, size in paths.items()):
            return
        # Whatever is there was cut short: no row of it can be told to be whole.
        for path in paths:
            path.unlink(missing_ok=True)
        free, wanted = shutil.disk_usage(folder).free, sum(sizes.values())
        try:
            if wanted > free:
                raise OSError("no room")
            for path, size in paths.items():
                with path.open("wb") as file:
                    file.truncate(size)
                    # A write to a mapped file for which the disk has no block left would end the process. Not everywhere.
                    if size and hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ValueError(
                f"the activation cache needs {wanted / GIB:.1f} GiB, but {folder.parent} has room for {free / GIB:.1f}; "
                f"set {named('max_gib')}, or another place with SPLITLEARN_CACHE"
            ) from error

    def has(self, rows_B: torch.Tensor) -> torch.Tensor:
        """Return for each row number of ``rows_B`` (B) whether that row is there, as bools (B)."""
        fits_B = rows_B < self.num_rows
        return fits_B & self._present[rows_B.clamp(max=max(self.num_rows - 1, 0))] if self.num_rows else fits_B

    def read(self, rows_B: torch.Tensor) -> Columns:
        """Return rows that are there."""
        return {name: column[rows_B] for name, column in self._columns.items()}

    def write(self, rows_B: torch.Tensor, columns: Columns) -> None:
        """Keep rows; those beyond the room are passed over."""
        fits_B = rows_B < self.num_rows
        for name, column in columns.items():
            self._columns[name][rows_B[fits_B]] = column[fits_B]
        # Last, so that a row which is there is whole.
        self._present[rows_B[fits_B]] = True


def row_bytes(example: Columns) -> int:
    """Return the bytes of one row of tensors that each have their rows first."""
    return sum(tensor.nbytes // max(tensor.shape[0], 1) for tensor in example.values())
