"""Documents: rows of one text each."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset

from splitlearn.data.bad_rows import Column
from splitlearn.data.reading import Source, read_rows


def read_documents(
    source: Source | str | Sequence[str], text_field: str = "text", sample_by: str = "paragraph", cache_dir: str | None = None
) -> Dataset:
    """Read documents into a data set with one column, ``text``; empty documents are left out.

    Args:
        source: what `Source` describes, or its name.
        text_field: the column that holds the text.
        sample_by: what one document of a text file is: ``"document"`` (the whole file), ``"paragraph"`` or ``"line"``.
        cache_dir: where `datasets` keeps what it has read; None is its own default.

    Returns:
        The documents, in order.

    Raises:
        FileNotFoundError: a file or data set does not exist.
        ValueError: no document is left, a row has no text, a file cannot be read, or ``sample_by`` is unknown.
    """
    where = source if isinstance(source, Source) else Source(source, sample_by)
    return documents_of(read_rows(where, [Column(text_field, "text_field")], cache_dir), text_field, str(where))


def documents_of(rows: Dataset, text_field: str, name: str) -> Dataset:
    """Return rows whose text is not empty, as the column ``text``.

    Args:
        rows: a data set.
        text_field: its column of text.
        name: what to call it in messages.

    Raises:
        ValueError: no row is left.
    """
    documents = rows.filter(lambda text: bool(text.strip()), input_columns=text_field)
    if len(documents) == 0:
        raise ValueError(f"{name}: no text in there")
    return documents if text_field == "text" else documents.rename_column(text_field, "text")
