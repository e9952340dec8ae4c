"""Reading rows from text, jsonl, csv and parquet files, from a hub's data sets, or from what Python carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, List, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from splitlearn.data.bad_rows import Column, check_first_row, first_bad_line, is_json, not_utf8
from splitlearn.embedded import read_python_docs, read_python_questions

_EMBEDDED: dict[str, Callable[[], dict[str, list[str]]]] = {
    "embedded:python_docs": lambda: {"text": read_python_docs()},
    "embedded:python_questions": read_python_questions,
}
_HUB = "hub:"
_BUILDERS = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
SAMPLE_BY = ("document", "paragraph", "line")


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        name: ``embedded:python_docs``, ``embedded:python_questions``, ``hub:OWNER/NAME``, or one or several files of one kind:
            ``.jsonl``, ``.csv``, ``.parquet``; any other file is text.
        sample_by: what one row of a text file is: ``"document"`` (the whole file), ``"paragraph"`` or ``"line"``.
        subset: which of a hub data set's configurations; None is its default.
        split: which of a hub data set's splits, for example ``"train[:1000]"``.
        revision: of a hub's data set the branch, tag or commit; None is its main branch.
    """

    name: str | Sequence[str]
    sample_by: str = "paragraph"
    subset: str | None = None
    split: str = "train"
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if isinstance(self.name, str) else ", ".join(map(str, self.name))

    @property
    def is_embedded(self) -> bool:
        """Whether Python itself carries it."""
        return isinstance(self.name, str) and self.name in _EMBEDDED

    @property
    def paths(self) -> list[Path]:
        """The files; empty for what is embedded or on a hub."""
        if self.is_embedded or (isinstance(self.name, str) and self.name.startswith(_HUB)):
            return []
        return [Path(each).expanduser() for each in ([self.name] if isinstance(self.name, str) else self.name)]


def read_rows(source: Source, columns: Sequence[Column], cache_dir: str | None = None) -> Dataset:
    """Read all rows of a source.

    Args:
        source: where they are.
        columns: which columns they must have; others are left out.
        cache_dir: where `datasets` keeps what it has read; None is its own default.

    Returns:
        The rows, in order.

    Raises:
        FileNotFoundError: a file or data set does not exist.
        ValueError: there are no rows, a column is missing or of another kind, or a file cannot be read.
    """
    if source.sample_by not in SAMPLE_BY:
        raise ValueError(f"data.sample_by is {source.sample_by!r}; use one of {', '.join(SAMPLE_BY)}")
    if source.is_embedded:
        rows = Dataset.from_dict(_EMBEDDED[str(source)]())
    else:
        paths = source.paths
        _check_files(paths, columns)
        rows = _load(source, paths, columns, cache_dir)
    if len(rows) == 0:
        raise ValueError(f"{source}: no text in there")
    _check_columns(rows, columns, source)
    return rows.select_columns([each.name for each in columns])


def stream_rows(source: Source, columns: Sequence[Column]) -> IterableDataset:
    """Return the rows of files or of a hub's data set as they are read, without keeping them.

    Raises:
        FileNotFoundError: a file or data set does not exist.
        ValueError: the source is embedded, or a column is missing.
    """
    if source.is_embedded:
        raise ValueError(f"{source} is small and in memory already; data.streaming is for files and hub data sets")
    paths = source.paths
    _check_files(paths, columns)
    # Files of many rows are looked through before training, so that it does not end at one of them.
    bad = first_bad_line(paths, columns)
    if bad is not None:
        raise ValueError(bad)
    rows = _load(source, paths, columns, cache_dir=None, streaming=True)
    try:
        first = next(iter(rows), None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source} cannot be read: {_innermost(error)}") from error
    if first is None:
        raise ValueError(f"{source}: no text in there")
    for each in columns:
        if each.name not in first:
            raise ValueError(_lacks(source, each, sorted(first)))
    return rows.select_columns([each.name for each in columns])


def check_values(rows: Dataset, columns: Sequence[Column], name: str) -> None:
    """Refuse rows in which a column holds another kind of value than it must.

    Args:
        rows: rows as they were read.
        columns: their columns.
        name: what to call the source in messages.

    Raises:
        ValueError: one does.
    """
    for each in columns:
        for value in rows[each.name]:
            if not isinstance(value, each.kinds):
                raise ValueError(f"{name}: a row has {value!r:.40} as {each.name!r}, which is no {each.held}")


def _load(source: Source, paths: list[Path], columns: Sequence[Column], cache_dir: str | None, streaming: bool = False) -> Any:
    try:
        if not paths:
            name = str(source).removeprefix(_HUB)
            settings = {"name": source.subset, "split": source.split, "revision": source.revision, "streaming": streaming}
            return load_dataset(name, cache_dir=cache_dir, **settings)
        kind = _BUILDERS.get(paths[0].suffix.lower(), "text")
        extra = {"sample_by": source.sample_by} if kind == "text" else {}
        builder = "json" if kind == "jsonl" else kind
        files = [str(path) for path in paths]
        return load_dataset(builder, data_files=files, split="train", cache_dir=cache_dir, streaming=streaming, **extra)
    except DatasetGenerationError as error:
        raise ValueError(first_bad_line(paths, columns) or f"{source} cannot be read: {_innermost(error)}") from error
    except ValueError as error:
        # What `datasets` says of a file without rows names no file.
        raise ValueError(f"{source} holds no rows, or cannot be read: {_innermost(error)}") from error
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"no data set {source}: {str(error).splitlines()[0]}") from error


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _check_files(paths: list[Path], columns: Sequence[Column]) -> None:
    for path in paths:
        if path.is_dir():
            raise FileNotFoundError(
                f"{path} is a folder; name the files in it, such as data.source=[{path}/a.jsonl,{path}/b.jsonl]"
            )
        if not path.is_file():
            raise FileNotFoundError(f"the data file {path} does not exist")
    builders = {_BUILDERS.get(path.suffix.lower(), "text") for path in paths}
    if len(builders) > 1:
        raise ValueError(f"data.source mixes {' and '.join(sorted(builders))} files; give files of one kind")
    if paths and all(path.stat().st_size == 0 for path in paths):
        raise ValueError(f"{', '.join(map(str, paths))}: no text in there")
    if builders <= {"jsonl", "text", "csv"}:
        bad = not_utf8(paths)
        if bad is not None:
            raise ValueError(f"{bad} cannot be read as UTF-8 text; convert it first")
    for path in paths:
        if is_json(path):
            check_first_row(path, columns)


def _check_columns(rows: Dataset, columns: Sequence[Column], source: Source) -> None:
    for each in columns:
        if each.name not in rows.column_names:
            raise ValueError(_lacks(source, each, rows.column_names))
        feature = rows.features[each.name]
        dtype = getattr(feature, "dtype", None)
        found = str if dtype in ("string", "large_string") else list if isinstance(feature, (list, List)) else None
        if found not in each.kinds:
            raise ValueError(first_bad_line(source.paths, columns) or f"{source}: {each.name!r} is no {each.kind} but {dtype}")
        if rows.data.column(each.name).null_count:
            raise ValueError(first_bad_line(source.paths, columns) or f"{source}: a row has nothing in {each.name!r}")


def _lacks(source: Source, column: Column, present: Sequence[str]) -> str:
    return f"{source} has no {column.kind} {column.name!r} but {', '.join(present)}; data.{column.setting} names what to use"
