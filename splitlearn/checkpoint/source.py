"""Where a checkpoint's files come from: a local folder, or a model hub through huggingface_hub."""

from __future__ import annotations

import json
import time
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.checkpoint.header import FileHeader, read_header
from splitlearn.checkpoint.shard import Shard, open_shard

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
# Safetensors first. An index before a single file, since asking a hub for the latter would download all of it.
_MAIN_FILES = (INDEX_FILE, SINGLE_FILE, "pytorch_model.bin.index.json", "pytorch_model.bin")
_RETRY_AFTER_S = (1.0, 2.0, 4.0)


class AbsentFileError(FileNotFoundError):
    """A checkpoint that can be reached and does not have the file."""


class UnreachableFileError(FileNotFoundError):
    """A file that is not in the hub's cache while the hub cannot be reached, so nobody knows whether it exists."""


class CheckpointSource:
    """The weight files of one model, fetched one by one as they are needed.

    Args:
        model_name_or_path: a local folder, or a hub id such as ``"Qwen/Qwen2-7B"``.

    Raises:
        FileNotFoundError: a path that does not exist, or a file where a folder is needed.
    """

    def __init__(self, model_name_or_path: str | Path) -> None:
        path = Path(model_name_or_path).expanduser()
        self.name = str(path if path.is_dir() else model_name_or_path)
        self._folder = path if path.is_dir() else None
        if self._folder is None and (path.exists() or path.is_absolute() or self.name.startswith((".", "~"))):
            what = "is a file; turn it into a folder with `python -m splitlearn prepare`" if path.exists() else "does not exist"
            raise FileNotFoundError(f"the model folder {self.name} {what}")

    @property
    def is_local(self) -> bool:
        """Whether the files lie in a local folder, so that looking at them costs no download."""
        return self._folder is not None

    def fetch(self, file: str) -> Path:
        """Return the local path of one of the checkpoint's files, downloading just that file from the hub if need be.

        Args:
            file: name inside the checkpoint, as its index gives it.

        Raises:
            FileNotFoundError: the folder or the hub's repository has no such file.
            CheckpointError: the name would leave the checkpoint's folder, or the hub refuses.
        """
        relative = PurePosixPath(file)
        if relative.is_absolute() or ".." in relative.parts or "\\" in file:
            raise CheckpointError(f"{self.name}: the index names {file!r}, which is outside the checkpoint's folder")
        if self._folder is not None:
            path = self._folder / file
            if not path.is_file():
                raise AbsentFileError(f"{path} is missing")
            return path
        return self._download(file)

    def _download(self, file: str) -> Path:
        # huggingface_hub itself waits and tries again when the hub cannot be reached or says "too many requests"; what it
        # gives up on at once are server errors in the middle of a download.
        waits_s = list(_RETRY_AFTER_S)
        while True:
            try:
                return Path(hf_hub_download(self.name, file))
            except (EntryNotFoundError, HFValidationError, HfHubHTTPError) as error:
                if not waits_s or not _is_transient(error):
                    raise self._explained(error, file) from error
                time.sleep(waits_s.pop(0))

    def _explained(self, error: Exception, file: str) -> FileNotFoundError:
        if isinstance(error, LocalEntryNotFoundError):
            return UnreachableFileError(
                f"{self.name} is no local folder, its {file} is not in the hub's cache, and the hub cannot be reached"
            )
        if isinstance(error, EntryNotFoundError):
            return AbsentFileError(f"{self.name} on the hub has no file {file}")
        if isinstance(error, GatedRepoError) or _status(error) in (401, 403):
            return FileNotFoundError(
                f"the hub does not give out {self.name} without leave: accept its licence there and log in with `hf auth login`"
            )
        if _is_transient(error):
            return FileNotFoundError(f"the hub failed to send {file} of {self.name} after {len(_RETRY_AFTER_S)} retries")
        reason = str(error).strip().splitlines()[0]
        return FileNotFoundError(f"{self.name} is no local folder and cannot be had from the hub: {reason}")

    @cached_property
    def _main_file(self) -> tuple[str, Path] | None:
        """The name and path of the index, or of the single file of weights; None if the checkpoint has neither."""
        unreachable = None
        for file in _MAIN_FILES:
            try:
                return file, self.fetch(file)
            except AbsentFileError:
                continue
            except UnreachableFileError as error:
                # Without the hub, what the cache lacks may not exist at all: a later candidate may be there.
                unreachable = unreachable or error
        if unreachable is not None:
            raise unreachable
        return None

    @cached_property
    def index(self) -> dict[str, Any]:
        """The index: ``weight_map`` from tensor name to file name, and ``metadata``. A single file gets an index made for it.

        Raises:
            FileNotFoundError: there is neither an index nor a single file of weights.
            CheckpointError: the index is not JSON or has no usable ``weight_map``.
        """
        if self._main_file is None:
            raise FileNotFoundError(f"{self.name} holds none of {', '.join(_MAIN_FILES)}; is it a model?")
        file, path = self._main_file
        if file.endswith(".json"):
            return _parse_index(path)
        return {"metadata": {}, "weight_map": dict.fromkeys(sorted(open_shard(path).names), file)}

    @property
    def is_sharded(self) -> bool:
        """Whether the checkpoint has an index of several files.

        Raises:
            FileNotFoundError: the hub cannot be reached, or does not give the model out.
        """
        return self._main_file is not None and self._main_file[0].endswith(".json")

    @property
    def weight_map(self) -> dict[str, str]:
        """Which file holds each tensor."""
        weight_map: dict[str, str] = self.index["weight_map"]
        return weight_map

    def stored_dtype(self) -> torch.dtype:
        """Return the dtype of the first floating-point tensor, from the header alone.

        Raises:
            CheckpointError: there is no floating-point tensor.
            FileNotFoundError: a shard is missing.
        """
        for name, file in self.weight_map.items():
            dtype = open_shard(self.fetch(file)).dtype(name)
            if dtype.is_floating_point:
                return dtype
        raise CheckpointError(f"{self.name} holds no floating-point weights")

    def header(self, file: str) -> FileHeader:
        """Return what one of the checkpoint's safetensors files holds; its weights are not touched.

        Args:
            file: name inside the checkpoint, as its index gives it.

        Raises:
            FileNotFoundError: the folder or the hub's repository has no such file.
            CheckpointError: the file is damaged or not a safetensors file.
        """
        return read_header(self.fetch(file))

    def open_shards(self, files: set[str]) -> dict[str, Shard]:
        """Fetch and open the named files and check that each holds what the index says.

        Returns:
            The opened shards by file name.

        Raises:
            FileNotFoundError: a file is missing; the message names a tensor that it should hold.
            CheckpointError: a file is damaged, or lacks a tensor that the index puts there.
        """
        tensors: dict[str, list[str]] = {}
        for name, file in self.weight_map.items():
            tensors.setdefault(file, []).append(name)
        shards = {}
        for file in sorted(files):
            try:
                shards[file] = open_shard(self.fetch(file))
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error} (the index says it holds {tensors[file][0]} and others)") from error
            absent = [name for name in tensors[file] if name not in shards[file].names]
            if absent:
                raise CheckpointError(
                    f"{shards[file].path} has no tensor {absent[0]!r}, though the index says so; fetch the checkpoint again"
                )
        return shards


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _is_transient(error: Exception) -> bool:
    status = _status(error)
    return status is not None and (status >= 500 or status in (408, 429))


def _parse_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); fetch it again") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{path} has no 'weight_map' from tensor names to file names")
    return {"metadata": index.get("metadata", {}), "weight_map": weight_map}
