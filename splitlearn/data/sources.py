"""Where rows come from: what Python carries, a hub's data set, or files by their literal names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitlearn.data.file_rows import KINDS, kind_of
from splitlearn.embedded import read_python_docs, read_python_questions

EMBEDDED: dict[str, Callable[[], dict[str, list[str]]]] = {
    "embedded:python_docs": lambda: {"text": read_python_docs()},
    "embedded:python_questions": read_python_questions,
}
_HUB = "hub:"
SAMPLE_BY = ("document", "paragraph", "line")


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        name: ``embedded:python_docs``, ``embedded:python_questions``, ``hub:OWNER/NAME``, or one or several files of one kind:
            ``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``, each also ``.gz``, ``.bz2`` or ``.zst``; any other file is
            text. A folder stands for the data files in it. A name with ``*`` of which there is no file stands for the files
            that match; no other letter is a wildcard.
        sample_by: what one row of a text file is: ``"document"`` (the whole file), ``"paragraph"`` or ``"line"``.
        subset: which of a hub data set's configurations; None is its default.
        split: which of a hub data set's splits, for example ``"train[:1000]"``.
        revision: of a hub's data set the branch, tag or commit; None is its main branch.
        setting: the setting that names it, for messages.
    """

    name: str | Sequence[str]
    sample_by: str = "paragraph"
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    setting: str = "source"

    def __str__(self) -> str:
        return self.name if isinstance(self.name, str) else ", ".join(map(str, self.name))

    @property
    def is_embedded(self) -> bool:
        """Whether Python itself carries it."""
        return isinstance(self.name, str) and self.name in EMBEDDED

    @property
    def hub_name(self) -> str | None:
        """The name of a hub's data set; None for everything else."""
        is_hub = isinstance(self.name, str) and self.name.startswith(_HUB)
        return str(self.name).removeprefix(_HUB) if is_hub else None

    @property
    def paths(self) -> list[Path]:
        """The files, in order; empty for what is embedded or on a hub.

        Raises:
            FileNotFoundError: a file does not exist, or a folder or pattern holds none.
            ValueError: the files are of several kinds, or empty.
        """
        if self.is_embedded or self.hub_name is not None:
            return []
        names = [self.name] if isinstance(self.name, (str, Path)) else list(self.name)
        paths = [path for name in names for path in _files_of(str(name))]
        if not paths:
            raise ValueError(f"data.{self.setting} names no file")
        kinds = sorted({kind_of(path) for path in paths})
        if len(kinds) > 1:
            raise ValueError(f"data.{self.setting} mixes {' and '.join(kinds)} files; give files of one kind")
        if all(path.stat().st_size == 0 for path in paths):
            raise ValueError(f"{', '.join(map(str, paths))}: no text in there")
        return paths


def _files_of(name: str) -> list[Path]:
    path = _literal(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in _visible(path, "**/*") if kind_of(file) != "text" or file.suffix.lower() == ".txt"]
        if not files:
            raise FileNotFoundError(f"the folder {path} holds no {', '.join(KINDS)} or .txt files; name the files in it")
        return files
    if "*" in name:
        # Only the star is a wildcard here: names of files have brackets and question marks in them.
        first = next(number for number, part in enumerate(path.parts) if "*" in part)
        pattern = "/".join(path.parts[first:]).replace("[", "[[]").replace("?", "[?]")
        files = _visible(Path(*path.parts[:first]), pattern)
        if not files:
            raise FileNotFoundError(f"no file matches {name}")
        return files
    raise FileNotFoundError(f"the data file {name} does not exist")


def _literal(name: str) -> Path:
    path = Path(name)
    if path.exists() or not name.startswith("~"):
        return path
    try:
        return path.expanduser()
    except RuntimeError:
        # There is no such user.
        return path


def _visible(root: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern in a folder in order of their names, without those that are hidden in it."""
    files = (path for path in root.glob(pattern) if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts))
