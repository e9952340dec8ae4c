"""Rows of tensors in memory, or in files that a later run opens again."""

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
    """Room for the rows of some tensors, and a mark for each row that is stored.

    Args:
        example: tensors of any shape with rows first, for their names, shapes and dtypes.
        num_rows: number of rows to make room for.
        folder: folder for files, which are filled further if they exist; None keeps the rows in memory.

    Raises:
        ValueError: the disk lacks room.
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
            # torch.zeros is lazy: the OS commits pages on first write.
            return torch.zeros(shape, dtype=dtype)
        size = math.prod(shape)
        flat = torch.from_file(str(self._folder / name), shared=True, size=size, dtype=dtype)
        return flat.view(shape)

    @staticmethod
    def _prepare(folder: Path, sizes: Mapping[str, int]) -> None:
        """Make files of the given sizes with all their disk blocks reserved; existing files are kept if all have their size."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = {folder / name: size for name, size in sizes.items()}
        if all(path.is_file() and path.stat().st_size == size for path, size in paths.items()):
            return
        # An earlier run was interrupted while it made these files, so no row of them can be trusted.
        for path in paths:
            path.unlink(missing_ok=True)
        free, needed = shutil.disk_usage(folder).free, sum(sizes.values())
        try:
            if needed > free:
                raise OSError("no room")
            for path, size in paths.items():
                with path.open("wb") as file:
                    file.truncate(size)
                    # Writing to a memory-mapped file on a full disk raises SIGBUS, so reserve the blocks first. Not all
                    # platforms have posix_fallocate.
                    if size and hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ValueError(
                f"the activation cache needs {needed / GIB:.1f} GiB, but {folder.parent} has room for {free / GIB:.1f}; "
                f"set {named('max_gib')}, or another place with SPLITLEARN_CACHE"
            ) from error

    def has(self, rows_B: torch.Tensor) -> torch.Tensor:
        """Return for each row number whether that row is stored.

        Args:
            rows_B: row numbers, shape (B).

        Returns:
            Bools of shape (B).
        """
        fits_B = rows_B < self.num_rows
        return fits_B & self._present[rows_B.clamp(max=max(self.num_rows - 1, 0))] if self.num_rows else fits_B

    def read(self, rows_B: torch.Tensor) -> Columns:
        """Return stored rows.

        Args:
            rows_B: their numbers, shape (B).

        Returns:
            Tensors of shape (B, ...) by name.
        """
        return {name: column[rows_B] for name, column in self._columns.items()}

    def write(self, rows_B: torch.Tensor, columns: Columns) -> None:
        """Store rows; those for which there is no room are passed over.

        Args:
            rows_B: their numbers, shape (B).
            columns: tensors of shape (B, ...) by name.
        """
        fits_B = rows_B < self.num_rows
        for name, column in columns.items():
            self._columns[name][rows_B[fits_B]] = column[fits_B]
        # Mark rows last, so that a marked row is complete.
        self._present[rows_B[fits_B]] = True


def row_bytes(example: Columns) -> int:
    """Return the bytes of one row of some tensors.

    Args:
        example: tensors of shape (B, ...) by name.
    """
    return sum(tensor.nbytes // max(tensor.shape[0], 1) for tensor in example.values())
