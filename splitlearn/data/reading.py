"""Reading rows of files, of a hub's data sets, or of what Python carries: checked one by one, and kept in a temporary file.

`datasets` would guess the types of columns, take names of files for patterns, and look up what it has read before by a file's
name and time. So local files are read here, and only the columns that are used.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub import HfApi

from splitlearn.data.bad_rows import Column, check_unicode, problem_of
from splitlearn.data.file_rows import Row, columns_of, kind_of, rows_of
from splitlearn.data.scratch import new_folder, remove_abandoned
from splitlearn.data.sources import EMBEDDED, SAMPLE_BY, Source
from splitlearn.redaction import reason_of

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Layout:
    """What is read from a row.

    Attributes:
        name: what it is called.
        columns: the columns that rows must have.
        read: returns the texts that are kept of a row, by name; None leaves the row out as empty.
        optional: columns that are read where they are.
        notes: counts what else is left out of rows while they are read.
    """

    name: str
    columns: tuple[Column, ...]
    read: Callable[[Row], dict[str, str] | None]
    optional: tuple[str, ...] = ()
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def wanted(self) -> list[str]:
        """All columns that are read."""
        return list(dict.fromkeys([*(column.name for column in self.columns), *self.optional]))


ChooseLayout = Callable[[Sequence[str], str], Layout]


class SourceRows:
    """The rows of a source, as a layout reads them.

    Args:
        source: where they are.
        choose: chooses the layout by the columns' names and the source's name.
        cache_dir: where `datasets` keeps what it has downloaded of a hub; None is its own default.
        streaming: read a hub's data set while it is downloaded.

    Attributes:
        num_rows: how many rows have been read, empty ones left out.
        num_empty: how many rows were left out as empty.
        columns: the names of all columns that were seen.

    Raises:
        FileNotFoundError: a file or data set does not exist.
        ValueError: the source holds no rows, or cannot be read.
    """

    def __init__(self, source: Source, choose: ChooseLayout, cache_dir: str | None = None, streaming: bool = False) -> None:
        if source.sample_by not in SAMPLE_BY:
            raise ValueError(f"data.sample_by is {source.sample_by!r}; use one of {', '.join(SAMPLE_BY)}")
        self.source = source
        self.paths = source.paths
        self._choose = choose
        self.num_rows = self.num_empty = 0
        self._hub: Any = None if source.hub_name is None else _load(source, cache_dir, streaming)
        self.columns = dict.fromkeys(self._column_names())
        if not self.columns:
            raise ValueError(f"{source}: no text in there")
        layout = self.layout
        if self._hub is not None or (self.paths and kind_of(self.paths[0]) not in ("jsonl", "text")):
            for name, present in self._tables():
                _check_columns(layout, name, present)

    @cached_property
    def layout(self) -> Layout:
        """What is read from each row."""
        return self._choose(list(self.columns), str(self.source))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker process needs. It chooses the layout, which holds functions, by itself, once it reads a row:
        whoever chooses is often handed over together with these rows, and not yet complete when they are.
        """
        return {name: value for name, value in self.__dict__.items() if name != "layout"}

    @property
    def is_local(self) -> bool:
        """Whether all rows can be looked through without downloading them."""
        return self._hub is None or isinstance(self._hub, Dataset)

    @property
    def unused_columns(self) -> list[str]:
        """The columns that are not read."""
        return [name for name in self.columns if name not in self.layout.wanted]

    def __iter__(self) -> Iterator[Row]:
        """Read all rows, in order: the layout's texts, and as ``place`` where they come from."""
        self.num_rows = self.num_empty = 0
        self.layout.notes.clear()
        for place, row in self._raw_rows():
            wrong = problem_of(row, self.layout.columns)
            if wrong is not None:
                raise ValueError(f"{place} {wrong}")
            try:
                texts = self.layout.read(row)
                check_unicode(texts or {})
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            if texts is None:
                self.num_empty += 1
            else:
                self.num_rows += 1
                yield {**texts, "place": place}

    def read(self, folder: Path | None = None) -> Dataset:
        """Read all rows into a file that is mapped into memory.

        Args:
            folder: an empty folder for the file, and for what `datasets` makes of it; None takes a temporary one that lasts as
                long as the process.

        Raises:
            ValueError: there are none, or one is not what training needs.
        """
        rows = iter(self)
        first = next(rows, None)
        if first is None:
            raise ValueError(f"{self.source}: no text in there")
        schema = pa.schema(dict.fromkeys(first, pa.large_string()))
        path = (folder or new_folder(rows_folder())) / "rows.arrow"
        batch = [first, *islice(rows, _ROWS_AT_ONCE - 1)]
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            while batch:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
                batch = list(islice(rows, _ROWS_AT_ONCE))
        return Dataset.from_file(str(path))

    def digest(self) -> str:
        """Look through all rows of files, and return a digest of what is read from them; of a hub's its commit.

        Raises:
            ValueError: one is not what training needs.
        """
        if not self.is_local:
            return _commit(self.source)
        digest = hashlib.sha256()
        for row in self:
            for name in row.keys() - {"place"}:
                text = row[name].encode()
                digest.update(len(text).to_bytes(8, "little") + text)
        return digest.hexdigest()

    def _column_names(self) -> list[str]:
        if self._hub is not None:
            return list(self._hub.column_names or next(iter(self._hub), {}))
        if self.source.is_embedded:
            return list(EMBEDDED[str(self.source)]())
        return next((names for names in (columns_of(path, self.source.sample_by) for path in self.paths) if names), [])

    def _tables(self) -> Iterator[tuple[str, Sequence[str]]]:
        if self._hub is not None:
            yield str(self.source), list(self.columns)
        for path in self.paths:
            yield str(path), columns_of(path)

    def _raw_rows(self) -> Iterator[tuple[str, Row]]:
        if self._hub is not None:
            yield from ((f"{self.source} row {number}", row) for number, row in enumerate(self._hub_rows(), 1))
        elif self.source.is_embedded:
            columns = EMBEDDED[str(self.source)]()
            for number, values in enumerate(zip(*columns.values(), strict=True), 1):
                yield f"{self.source} row {number}", dict(zip(columns, values, strict=True))
        for path in self.paths:
            for place, row in rows_of(path, self.source.sample_by, self.layout.wanted):
                self.columns.update(dict.fromkeys(row))
                yield f"{path} {place}", row

    def _hub_rows(self) -> Iterator[Row]:
        present = [name for name in self.layout.wanted if name in self.columns]
        try:
            # Not by iterating over single rows of a stream: `datasets` would give each worker other files.
            for batch in self._hub.select_columns(present).iter(batch_size=_ROWS_AT_ONCE):
                yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
        except (DatasetGenerationError, ConnectionError, TypeError) as error:
            raise ValueError(f"{self.source} cannot be read: {_innermost(error)}") from error


def rows_folder() -> Path:
    """Return where temporary folders are made: not in the system's, which is often small, or memory."""
    return Path(datasets.config.HF_DATASETS_CACHE)


def remove_abandoned_rows() -> None:
    """Remove the rows that killed processes have left."""
    remove_abandoned(rows_folder())


def _load(source: Source, cache_dir: str | None, streaming: bool) -> Dataset | IterableDataset:
    # One of four overloads, which differ in whether ``split`` is None and in the value of ``streaming``.
    load: Callable[..., Any] = load_dataset
    try:
        return load(
            str(source.hub_name),
            name=source.subset,
            split=source.split,
            revision=source.revision,
            cache_dir=cache_dir,
            streaming=streaming,
        )
    except (ValueError, DatasetGenerationError) as error:
        raise ValueError(f"{source} holds no rows, or cannot be read: {_innermost(error)}") from error
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"no data set {source}: {reason_of(error)}") from error


def _commit(source: Source) -> str:
    try:
        return str(HfApi().dataset_info(str(source.hub_name), revision=source.revision).sha)
    except OSError:
        # Without the hub there is only what the user says.
        return str(source.revision)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return reason_of(error)


def _check_columns(layout: Layout, name: str, present: Sequence[str]) -> None:
    for column in layout.columns:
        if column.name not in present:
            raise ValueError(f"{name} has no {column.kind} {column.name!r} but {', '.join(present)}; {column.remedy}")
