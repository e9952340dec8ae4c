"""The weight files of one model, in a local folder or a repository on a model hub."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from splitlearn.checkpoint.adapter_beside import refuse_adapter
from splitlearn.checkpoint.errors import AbsentFileError, CheckpointError
from splitlearn.checkpoint.header import DTYPES, FileHeader
from splitlearn.checkpoint.hub import HubRepository
from splitlearn.checkpoint.local_folder import LocalFolder
from splitlearn.checkpoint.main_file import Files, check_inside, describe_absence, find_main_file, parse_index
from splitlearn.checkpoint.shard import Shard, open_shard
from splitlearn.naming import named

_HEADERS_AT_ONCE = 8
_MODEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class _Files(Files, Protocol):
    """A place that checkpoints are kept in."""

    is_local: bool
    downloaded_bytes: int

    @property
    def commit(self) -> str | None: ...

    def header(self, file: str) -> FileHeader: ...

    def missing_bytes(self, file: str, names: Collection[str]) -> int: ...

    def open(self, file: str, names: Collection[str] | None = None) -> Shard: ...


class CheckpointSource:
    """The weight files of one model, fetched one by one as they are needed.

    Args:
        model_name_or_path: a local folder, or a hub id such as ``"Qwen/Qwen2-7B"``.
        revision: branch, tag or commit of a hub's repository; None is its main branch.

    Raises:
        FileNotFoundError: a path that does not exist, or a file where a folder is needed.
        ValueError: a revision of a local folder.
    """

    def __init__(self, model_name_or_path: str | Path, revision: str | None = None) -> None:
        path = Path(model_name_or_path).expanduser()
        self.name = str(path if path.is_dir() else model_name_or_path)
        if path.is_dir():
            if revision is not None:
                raise ValueError(f"revision is {revision!r}, but {self.name} is a local folder, which has none; leave it out")
            self._files: _Files = LocalFolder(path)
            return
        if path.exists() or path.is_absolute() or self.name.startswith((".", "~")):
            fault = (
                "is a file; turn it into a folder with `python -m splitlearn prepare`" if path.exists() else "does not exist"
            )
            raise FileNotFoundError(f"the model folder {self.name} {fault}")
        self._files = HubRepository(self.name, revision)

    @property
    def is_local(self) -> bool:
        """Whether the files lie in a local folder, so that opening them costs no download."""
        return self._files.is_local

    @property
    def commit(self) -> str | None:
        """The hub's commit that all files are from; None for a local folder.

        Raises:
            FileNotFoundError: the hub has no such repository or revision, or cannot be reached.
        """
        return self._files.commit

    @property
    def downloaded_bytes(self) -> int:
        """Bytes of weights that were downloaded so far."""
        return self._files.downloaded_bytes

    def fetch(self, file: str) -> Path:
        """Return the local path of one of the checkpoint's files; from a hub just that file is downloaded.

        Args:
            file: name inside the checkpoint, as its index gives it.

        Raises:
            FileNotFoundError: the folder or the hub's repository has no such file.
            CheckpointError: the name would leave the checkpoint's folder, or the hub refuses.
        """
        return self._files.fetch(self._inside(file))

    def header(self, file: str) -> FileHeader:
        """Return the header of one of the checkpoint's safetensors files; its weights are neither read nor downloaded.

        Args:
            file: name inside the checkpoint, as its index gives it.

        Raises:
            FileNotFoundError: the folder or the hub's repository has no such file.
            CheckpointError: the file is damaged or not a safetensors file, or would lie outside the checkpoint.
        """
        return self._files.header(self._inside(file))

    def _inside(self, file: str) -> str:
        return check_inside(file, self.name)

    def refuse_adapter(self) -> None:
        """Refuse a checkpoint that is a PEFT adapter, or has one beside its weights.

        Raises:
            CheckpointError: there is an adapter.
            FileNotFoundError: the hub has no such repository, or refuses to send it.
        """
        refuse_adapter(self._files)

    @cached_property
    def _main_file(self) -> str | None:
        """The name of the index, or of the single file of weights; None if there are no weights."""
        return find_main_file(self._files)

    @cached_property
    def index(self) -> dict[str, Any]:
        """The index: ``weight_map`` from tensor name to file name, and ``metadata``. A single file gets an index made for it.

        Raises:
            FileNotFoundError: there is neither an index nor a single file of weights.
            CheckpointError: the index is not JSON or has no usable ``weight_map``.
        """
        file = self._main_file
        if file is None:
            raise FileNotFoundError(describe_absence(self._files))
        if file.endswith(".json"):
            return parse_index(self.fetch(file))
        names = self.header(file).tensors if file.endswith(".safetensors") else open_shard(self.fetch(file)).names
        return {"metadata": {}, "weight_map": dict.fromkeys(sorted(names), file)}

    @property
    def is_sharded(self) -> bool:
        """Whether the checkpoint has an index of several files.

        Raises:
            FileNotFoundError: the hub cannot be reached, or refuses to send the model.
        """
        return self._main_file is not None and self._main_file.endswith(".json")

    @property
    def weight_map(self) -> dict[str, str]:
        """The file that holds each tensor, by the tensor's name; raises as `index` does."""
        weight_map: dict[str, str] = self.index["weight_map"]
        return weight_map

    def stored_dtype(self) -> torch.dtype:
        """Return the dtype in which to load a model whose configuration names none, from the headers alone.

        As in transformers: the dtype in the index, else that of the first floating-point tensor; float8 does not count.

        Raises:
            CheckpointError: no tensor has a dtype in which a model can be built.
            FileNotFoundError: a shard is missing.
        """
        in_index = getattr(torch, str(self.index["metadata"].get("dtype")), None)
        if isinstance(in_index, torch.dtype) and in_index in _MODEL_DTYPES:
            return in_index
        for file in sorted(set(self.weight_map.values())):
            try:
                dtypes = self._dtypes(file)
            except AbsentFileError as error:
                raise AbsentFileError(
                    f"{error}, and since config.json names no dtype, that of the first stored tensor counts; "
                    f"set {named('dtype')} to load without that file"
                ) from error
            for dtype in dtypes:
                if dtype in _MODEL_DTYPES:
                    return dtype
        raise CheckpointError(
            f"{self.name} holds no weights in float32, bfloat16 or float16 that would say in which dtype to load it; "
            f"set {named('dtype')}"
        )

    def _dtypes(self, file: str) -> list[torch.dtype | None]:
        """Return the dtypes of a file's tensors in transformers' order: safetensors by name, torch files as they were saved."""
        if file.endswith(".safetensors"):
            return [DTYPES.get(entry.dtype_name) for _, entry in sorted(self.header(file).tensors.items())]
        shard = open_shard(self.fetch(file))
        return [shard.dtype(name) for name in shard.in_order]

    def stored(self, names: Collection[str]) -> dict[str, tuple[str, int]]:
        """Return dtype and size of stored tensors, from the headers of their files alone.

        Args:
            names: tensors of the checkpoint.

        Returns:
            For each tensor the name of its dtype, such as ``"bfloat16"``, and its bytes.

        Raises:
            FileNotFoundError: a shard is missing.
            CheckpointError: a shard is damaged or lacks a tensor, or is a hub's torch file, which has no header.
        """
        files = sorted({self.weight_map[name] for name in names})
        with ThreadPoolExecutor(_HEADERS_AT_ONCE, thread_name_prefix="headers") as pool:
            contents = dict(zip(files, pool.map(self._contents, files), strict=True))
        absent = [name for name in names if name not in contents[self.weight_map[name]]]
        if absent:
            file = self.weight_map[absent[0]]
            raise CheckpointError(
                f"{file} of {self.name} has no tensor {absent[0]!r}, though the index says so; fetch it again"
            )
        return {name: contents[self.weight_map[name]][name] for name in names}

    def _contents(self, file: str) -> dict[str, tuple[str, int]]:
        if file.endswith(".safetensors"):
            entries = self.header(file).tensors.items()
            return {name: (_dtype_name(entry.dtype_name), entry.num_bytes) for name, entry in entries}
        if not self.is_local:
            raise CheckpointError(
                f"{file} of {self.name} is a torch file, which has no header: fetch it with `hf download` first"
            )
        shard = open_shard(self.fetch(file))
        return {name: (str(shard.dtype(name)).removeprefix("torch."), shard.num_bytes(name)) for name in shard.names}

    def missing_bytes(self, names: Collection[str]) -> int:
        """Return how many bytes would be downloaded to read some tensors; 0 for a local folder.

        Args:
            names: tensors of the checkpoint.

        Raises:
            FileNotFoundError: the hub lacks a file, refuses it, or cannot be reached.
            CheckpointError: a file is damaged.
        """
        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(self.weight_map[name], []).append(name)
        return sum(self._files.missing_bytes(file, in_file) for file, in_file in by_file.items())

    def open_shards(
        self, files: Collection[str], names: Collection[str] | None = None, on_open: Callable[[], object] = lambda: None
    ) -> dict[str, Shard]:
        """Fetch and open some files and check that each holds the tensors that the index lists.

        Args:
            files: names inside the checkpoint, as its index gives them.
            names: the tensors that will be read; None means all. From a hub no others need be downloaded.
            on_open: called after each file.

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
            needed = tensors[file] if names is None else [name for name in tensors[file] if name in names]
            try:
                shards[file] = self._files.open(self._inside(file), needed if len(needed) < len(tensors[file]) else None)
            except FileNotFoundError as error:
                raise type(error)(f"{error} (the index says it holds {tensors[file][0]} and others)") from error
            absent = [name for name in tensors[file] if name not in shards[file].names]
            if absent:
                raise CheckpointError(
                    f"{shards[file].path} has no tensor {absent[0]!r}, though the index says so; fetch the checkpoint again"
                )
            on_open()
        return shards


def _dtype_name(stored: str) -> str:
    dtype = DTYPES.get(stored)
    return stored if dtype is None else str(dtype).removeprefix("torch.")
