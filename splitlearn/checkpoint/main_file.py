"""Finding the file that says where a checkpoint's weights are: the one that transformers' ``from_pretrained`` takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from splitlearn.checkpoint.errors import CheckpointError, UnreachableFileError, name_some
from splitlearn.json_text import JsonError, read_json, read_json_object

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"
# transformers' own order. A single file wins over an index beside it, even one that is newer.
MAIN_FILES = (SINGLE_FILE, INDEX_FILE, "pytorch_model.bin", "pytorch_model.bin.index.json")
# The longest file name that file systems take.
_MAX_NAME_BYTES = 255
# Files of torch's distributed checkpoints, which transformers prefers to all others.
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


class Files(Protocol):
    """The files of one checkpoint."""

    name: str

    def exists(self, file: str) -> bool:
        """Whether there is such a file.

        Args:
            file: name inside the checkpoint.
        """
        ...

    def fetch(self, file: str) -> Path:
        """Return the local path of a file.

        Args:
            file: name inside the checkpoint.

        Raises:
            FileNotFoundError: there is no such file, or the hub cannot be reached.
        """
        ...

    def list_weights(self) -> Sequence[str]:
        """Return the names of all files of weights in a local folder; a hub's repository gives none."""
        ...


def find_main_file(files: Files) -> str | None:
    """Return the name of the file of weights, or of the index of several, that transformers takes; None if there is none.

    Args:
        files: the checkpoint's files.

    Raises:
        FileNotFoundError: the hub that may have one cannot be reached.
        CheckpointError: the configuration names one that is not usable, or the files are a distributed checkpoint's.
    """
    distributed = [file for file in files.list_weights() if _DISTRIBUTED.fullmatch(file)]
    if distributed:
        raise CheckpointError(
            f"{files.name} holds a distributed checkpoint ({distributed[0]}), which transformers would read first: load it "
            "with transformers and save it with save_pretrained in another folder"
        )
    named = _named_in_configuration(files)
    if named is not None:
        return named
    unreachable = None
    for file in MAIN_FILES:
        try:
            if files.exists(file):
                return file
        except UnreachableFileError as error:
            # The hub cannot say whether this candidate exists, so try the later ones, which may be in the cache.
            unreachable = unreachable or error
    if unreachable is not None:
        raise unreachable
    return None


def describe_absence(files: Files) -> str:
    """Return the error message for a checkpoint without weights.

    Args:
        files: the checkpoint's files.
    """
    others = list(files.list_weights())
    hint = f"rename {name_some(others)} if that is what you mean" if others else "is it a model?"
    return f"{files.name} holds none of {', '.join(MAIN_FILES)}; {hint}"


def _named_in_configuration(files: Files) -> str | None:
    """Return the file that ``transformers_weights`` in the configuration names, or None if it names none."""
    try:
        settings = read_json(files.fetch(CONFIG_FILE))
    except (FileNotFoundError, JsonError):
        # An unusable configuration is reported where it is read.
        return None
    named = settings.get("transformers_weights") if isinstance(settings, dict) else None
    if named is None:
        return None
    if not isinstance(named, str) or not named.endswith((".safetensors", ".safetensors.index.json")):
        raise CheckpointError(
            f"transformers_weights in the configuration of {files.name} is {named!r}; name a .safetensors file or its index"
        )
    return named


def check_inside(file: str, checkpoint: str) -> str:
    """Return a file's name if it lies inside the checkpoint.

    Args:
        file: the name, as the index gives it.
        checkpoint: the checkpoint, for messages.

    Raises:
        CheckpointError: its path leaves the checkpoint's folder.
    """
    try:
        is_name = 0 < len(file.encode("utf-8")) <= _MAX_NAME_BYTES and file.isprintable()
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise CheckpointError(f"{checkpoint}: the index names {file[:80]!r}, which is no name of a file")
    relative = PurePosixPath(file)
    if relative.is_absolute() or ".." in relative.parts or "\\" in file:
        raise CheckpointError(f"{checkpoint}: the index names {file!r}, which is outside the checkpoint's folder")
    return file


def parse_index(path: Path) -> dict[str, Any]:
    """Read an index.

    Args:
        path: the file.

    Returns:
        ``weight_map`` from tensor name to file name, and ``metadata``.

    Raises:
        CheckpointError: the file is not JSON or has no usable ``weight_map``.
    """
    try:
        index = read_json_object(path)
    except JsonError as error:
        raise CheckpointError(f"{error}; fetch it again") from error
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{path} has no 'weight_map' from tensor names to file names")
    metadata = index.get("metadata")
    return {"metadata": metadata if isinstance(metadata, dict) else {}, "weight_map": weight_map}
