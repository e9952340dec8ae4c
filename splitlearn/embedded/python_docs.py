"""Real English text that comes with every Python: the language reference behind ``help()``."""

from __future__ import annotations


def read_python_docs() -> list[str]:
    """Return the topics of Python's built-in help (`pydoc_data.topics`), one document each: about 80, half a million letters.

    Source: the Python language reference, under the PSF licence; the text is that of the running Python's version.
    """
    from pydoc_data import topics

    return [text.strip() + "\n" for _, text in sorted(topics.topics.items())]
