"""Rows of files as they are written: no type is guessed, so a text that looks like a date or a number stays a text."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
from pyarrow import csv, parquet

from splitlearn.redaction import reason_of

Row = dict[str, Any]
# By the end of a file's name, before that of a compression.
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# A csv file's cell may have so many bytes.
_CSV_BLOCK_BYTES = 16 << 20
_ROWS_AT_ONCE = 1000


def kind_of(path: Path) -> str:
    """Return what a file is by its name: ``jsonl``, ``csv``, ``tsv``, ``parquet`` or ``text``."""
    inner = path.with_suffix("") if path.suffix.lower() in _CODECS else path
    return KINDS.get(inner.suffix.lower(), "text")


def columns_of(path: Path, sample_by: str = "paragraph") -> list[str]:
    """Return the names of a file's columns; of jsonl those of its first row.

    Raises:
        ValueError: the file cannot be read. An empty list means that it has no rows.
    """
    kind = kind_of(path)
    with _readable(path):
        if kind == "parquet":
            return list(parquet.read_schema(path).names)
        if kind in ("csv", "tsv"):
            return [] if path.stat().st_size == 0 else list(_open_csv(path, kind, None).schema.names)
    return list(next((row for _, row in rows_of(path, sample_by)), {}))


def rows_of(path: Path, sample_by: str = "paragraph", columns: Sequence[str] | None = None) -> Iterator[tuple[str, Row]]:
    """Read a file's rows one after the other.

    Args:
        path: the file.
        sample_by: what a row of a text file is: the whole ``"document"``, a ``"paragraph"`` or a ``"line"``.
        columns: which columns to read of a csv or parquet file; None reads all.

    Yields:
        A row's place, and the row. The place is a line's number, such as ``"line 3"``, in jsonl and text files; in others, and
        in a JSON array, it is the row's, ``"row 3"``.

    Raises:
        ValueError: the file, or a row, cannot be read.
    """
    kind = kind_of(path)
    with _readable(path):
        if kind == "parquet":
            yield from _parquet_rows(path, columns)
        elif path.stat().st_size == 0:
            return
        elif kind in ("csv", "tsv"):
            yield from _csv_rows(path, kind, columns)
        else:
            with _open_text(path) as lines:
                yield from _json_rows(path, lines) if kind == "jsonl" else _text_rows(lines, sample_by)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read which it is."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text; convert it first") from error
    except pa.ArrowException as error:
        reason = str(error).strip().splitlines()[0]
        if "UTF8" in reason:
            raise ValueError(f"{path} cannot be read as UTF-8 text; convert it first") from error
        raise ValueError(f"{path} cannot be read as {kind_of(path)}: {reason}") from error
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _open_bytes(path: Path) -> Any:
    return pa.input_stream(str(path), compression=_CODECS.get(path.suffix.lower()))


def _refuse_utf16(path: Path) -> None:
    with _open_bytes(path) as stream:
        if stream.read(2) in _UTF16:
            raise ValueError(f"{path} is UTF-16 and cannot be read as UTF-8 text; convert it first")


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    _refuse_utf16(path)
    # "utf-8-sig" leaves out the mark that some editors begin files with.
    if path.suffix.lower() not in _CODECS:
        with path.open(encoding="utf-8-sig") as lines:
            yield lines
        return
    with _open_bytes(path) as stream, io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig") as lines:
        yield lines


def _text_rows(lines: TextIO, sample_by: str) -> Iterator[tuple[str, Row]]:
    if sample_by == "document":
        yield "line 1", {"text": lines.read()}
    elif sample_by == "line":
        yield from ((f"line {number}", {"text": line.rstrip("\n")}) for number, line in enumerate(lines, 1))
    else:
        paragraph: list[str] = []
        number = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                paragraph.append(line)
            elif paragraph:
                yield f"line {number - len(paragraph)}", {"text": "".join(paragraph).rstrip("\n")}
                paragraph = []
        if paragraph:
            yield f"line {number - len(paragraph) + 1}", {"text": "".join(paragraph).rstrip("\n")}


def _json_rows(path: Path, lines: TextIO) -> Iterator[tuple[str, Row]]:
    """Read a row from each line; or from an array, or an object with an array named data, over all lines."""
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    head = list(islice(numbered, 2))
    if head and _is_whole(path, head):
        # Empty lines count, so that a mistake's line is right.
        before = "\n" * (head[0][0] - 1)
        between = "\n" * (head[1][0] - head[0][0] - 1) if len(head) > 1 else ""
        yield from _array_rows(path, before + between.join(line for _, line in head) + lines.read())
        return
    for number, line in chain(head, numbered):
        yield f"line {number}", _parse_line(path, number, line)


def _is_whole(path: Path, head: Sequence[tuple[int, str]]) -> bool:
    """Whether a file's first lines begin an array or object over several lines, or are an object with the rows as its data."""
    first = head[0][1]
    if first.lstrip().startswith("["):
        return True
    try:
        found = json.loads(first)
    except (ValueError, RecursionError):
        return ".json" in [suffix.lower() for suffix in path.suffixes[-2:]]
    return len(head) == 1 and isinstance(found, dict) and isinstance(found.get("data"), list)


def _array_rows(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    found = _parse(path, 1, text)
    if isinstance(found, dict):
        found = found["data"] if isinstance(found.get("data"), list) else [found]
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path} row {number} is {json.dumps(row)[:40]} and no object with fields")
        yield f"row {number}", row


def _parse_line(path: Path, number: int, line: str) -> Row:
    row = _parse(path, number, line)
    if not isinstance(row, dict):
        raise ValueError(f"{path} line {number} is {json.dumps(row)[:40]} and no object with fields")
    return row


def _parse(path: Path, number: int, text: str) -> Any:
    """Return what the JSON ``text``, which begins in line ``number``, stands for."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {number + error.lineno - 1} is not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or lists within lists.
        raise ValueError(f"{path} line {number} cannot be read as JSON ({reason_of(error)})") from error


def _open_csv(path: Path, kind: str, columns: Sequence[str] | None) -> Any:
    _refuse_utf16(path)
    names = [] if columns is None else list(columns)
    return csv.open_csv(
        _open_bytes(path),
        csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES),
        csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True),
        # All cells are text. One with nothing in it, not even quotes, is missing.
        csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=names,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _csv_rows(path: Path, kind: str, columns: Sequence[str] | None) -> Iterator[tuple[str, Row]]:
    present = _open_csv(path, kind, None).schema.names
    wanted = [name for name in (present if columns is None else columns) if name in present]
    number = 0
    for batch in _open_csv(path, kind, wanted):
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[tuple[str, Row]]:
    with parquet.ParquetFile(path) as file:
        wanted = [name for name in file.schema_arrow.names if columns is None or name in columns]
        number = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
