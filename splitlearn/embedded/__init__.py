"""Models and text that need no hub and no download: made on first use, or carried by an installed package."""

from splitlearn.embedded.cache import cache_folder
from splitlearn.embedded.python_docs import read_python_docs
from splitlearn.embedded.python_questions import read_python_questions
from splitlearn.embedded.resolve import resolve_model

__all__ = ["cache_folder", "read_python_docs", "read_python_questions", "resolve_model"]
