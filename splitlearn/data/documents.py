"""Documents: rows of one text each."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset

from splitlearn.data.bad_rows import Column
from splitlearn.data.file_rows import Row
from splitlearn.data.reading import Layout, SourceRows
from splitlearn.data.sources import Source


def read_documents(
    source: Source | str | Sequence[str], text_field: str = "text", sample_by: str = "paragraph", cache_dir: str | None = None
) -> Dataset:
    """Read documents into a data set with one column, ``text``; empty documents are left out.

    Args:
        source: what `Source` describes, or its name.
        text_field: the column that holds the text.
        sample_by: what one document of a text file is: ``"document"`` (the whole file), ``"paragraph"`` or ``"line"``.
        cache_dir: where `datasets` keeps what it has downloaded of a hub; None is its own default.

    Returns:
        The documents, in order.

    Raises:
        FileNotFoundError: a file or data set does not exist.
        ValueError: no document is left, a row has no text, a file cannot be read, or ``sample_by`` is unknown.
    """
    where = source if isinstance(source, Source) else Source(source, sample_by)
    rows = SourceRows(where, lambda columns, name: document_layout(text_field), cache_dir)
    return rows.read().select_columns("text")


def document_layout(text_field: str) -> Layout:
    """Return a layout that reads one column of text as ``text``; rows with nothing but white space in it are left out."""

    def read(row: Row) -> dict[str, str] | None:
        text: str = row[text_field]
        return {"text": text} if text.strip() else None

    return Layout("documents", (Column(text_field, "text_field"),), read)
