"""Reading documents from text files, jsonl files, or the text that Python carries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from splitlearn.embedded import read_python_docs

PYTHON_DOCS = "embedded:python_docs"
SAMPLE_BY = ("document", "paragraph", "line")
_JSON_SUFFIXES = (".jsonl", ".json")


def read_documents(
    source: str | Sequence[str], text_field: str = "text", sample_by: str = "paragraph", cache_dir: str | None = None
) -> Dataset:
    """Read documents into a data set with one column, ``text``; empty documents are left out.

    Args:
        source: ``embedded:python_docs`` for Python's own documentation, or one or several ``.jsonl`` or text files.
        text_field: the field of each jsonl row that holds the text.
        sample_by: what one document of a text file is: ``"document"`` (the whole file), ``"paragraph"`` or ``"line"``.
        cache_dir: where `datasets` keeps what it has read; None is its own default.

    Returns:
        The documents, in order.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: no document is left, a jsonl line is not JSON, its field is absent, or ``sample_by`` is unknown.
    """
    if source == PYTHON_DOCS:
        return Dataset.from_dict({"text": read_python_docs()})
    paths = [Path(each).expanduser() for each in ([source] if isinstance(source, str) else source)]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"the data file {path} does not exist")
    is_json = {path.suffix in _JSON_SUFFIXES for path in paths}
    if len(is_json) != 1:
        raise ValueError("data.source mixes jsonl and text files; give files of one kind")
    read = _read_json if is_json.pop() else _read_text
    documents = read(paths, text_field, sample_by, cache_dir).filter(lambda text: bool(text.strip()), input_columns="text")
    if len(documents) == 0:
        raise ValueError(f"{', '.join(map(str, paths))}: no text in there")
    return documents


def _read_text(paths: list[Path], text_field: str, sample_by: str, cache_dir: str | None) -> Dataset:
    if sample_by not in SAMPLE_BY:
        raise ValueError(f"data.sample_by is {sample_by!r}; use one of {', '.join(SAMPLE_BY)}")
    if all(path.stat().st_size == 0 for path in paths):
        raise ValueError(f"{', '.join(map(str, paths))}: no text in there")
    files = [str(path) for path in paths]
    try:
        return load_dataset("text", data_files=files, sample_by=sample_by, split="train", cache_dir=cache_dir)
    except DatasetGenerationError as error:
        raise ValueError(f"{_not_utf8(paths) or files[0]} cannot be read as UTF-8 text; convert it first") from error


def _not_utf8(paths: list[Path]) -> Path | None:
    for path in paths:
        try:
            with path.open(encoding="utf-8") as lines:
                for _ in lines:
                    pass
        except UnicodeDecodeError:
            return path
    return None


def _read_json(paths: list[Path], text_field: str, sample_by: str, cache_dir: str | None) -> Dataset:
    bad = _not_utf8(paths)
    if bad is not None:
        raise ValueError(f"{bad} cannot be read as UTF-8 text; convert it first")
    for path in paths:
        _check_first_row(path, text_field)
    try:
        rows = load_dataset("json", data_files=[str(path) for path in paths], split="train", cache_dir=cache_dir)
    except DatasetGenerationError as error:
        raise ValueError(_first_bad_line(paths, text_field) or f"{paths[0]} cannot be read as jsonl: {error}") from error
    if getattr(rows.features[text_field], "dtype", None) not in ("string", "large_string"):
        raise ValueError(_first_bad_line(paths, text_field) or f"{paths[0]}: the field {text_field!r} is not text")
    texts = rows.select_columns(text_field)
    if rows.data.column(text_field).null_count:
        raise ValueError(_first_bad_line(paths, text_field) or f"{paths[0]}: a row has no text in {text_field!r}")
    return texts if text_field == "text" else texts.rename_column(text_field, "text")


def _problem(line: str, text_field: str) -> str | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is not JSON ({error.msg})"
    if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
        return f"has no text field {text_field!r}; data.text_field names the field to use"
    return None


def _check_first_row(path: Path, text_field: str) -> None:
    with path.open(encoding="utf-8") as lines:
        first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise ValueError(f"{path}: no text in there")
    problem = _problem(first, text_field)
    if problem:
        raise ValueError(f"{path} line 1 {problem}")


def _first_bad_line(paths: list[Path], text_field: str) -> str | None:
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                problem = _problem(line, text_field) if line.strip() else None
                if problem:
                    return f"{path} line {number} {problem}"
    return None
