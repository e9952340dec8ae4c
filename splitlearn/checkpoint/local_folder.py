"""The weight files of a checkpoint in a local folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from splitlearn.checkpoint.errors import AbsentFileError
from splitlearn.checkpoint.header import FileHeader, read_header
from splitlearn.checkpoint.shard import Shard, open_shard


class LocalFolder:
    """A folder with a checkpoint's files; it has the same methods as a `HubRepository`.

    Args:
        folder: the folder.
    """

    is_local = True
    downloaded_bytes = 0
    commit = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = str(folder)

    def exists(self, file: str) -> bool:
        """Whether the folder has a file.

        Args:
            file: its name in the folder.
        """
        return (self._folder / file).is_file()

    def list_weights(self) -> Sequence[str]:
        """Return the names of all files of weights, in order."""
        return sorted(path.name for path in self._folder.iterdir() if path.suffix in (".safetensors", ".bin"))

    def fetch(self, file: str) -> Path:
        """Return the path of a file.

        Args:
            file: its name in the folder.

        Raises:
            FileNotFoundError: there is no such file.
        """
        path = self._folder / file
        if not path.is_file():
            raise AbsentFileError(f"{path} is missing")
        return path

    def header(self, file: str) -> FileHeader:
        """Return the header of a safetensors file; its weights are not read.

        Args:
            file: its name in the folder.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is damaged or not a safetensors file.
        """
        return read_header(self.fetch(file))

    def missing_bytes(self, file: str, names: Collection[str]) -> int:
        """Return 0: nothing is downloaded.

        Args:
            file: ignored.
            names: ignored.
        """
        return 0

    def open(self, file: str, names: Collection[str] | None = None) -> Shard:
        """Open a file of weights without reading them.

        Args:
            file: its name in the folder.
            names: ignored: all tensors can be read.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is damaged.
        """
        return open_shard(self.fetch(file))
