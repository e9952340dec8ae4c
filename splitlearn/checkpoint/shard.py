"""One file of weights, opened without reading them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import EllipsisType

import torch
from safetensors import SafetensorError, safe_open

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.checkpoint.header import DTYPES, TensorHeader, read_header
from splitlearn.checkpoint.torch_reading import check_plain, read_torch_file
from splitlearn.files import refusal_to_read


class Shard(ABC):
    """One file of a checkpoint, opened without reading its weights.

    Attributes:
        path: the file.
        names: the tensors it holds.
        in_order: the same as the file lists them.
    """

    path: Path
    names: frozenset[str]
    in_order: tuple[str, ...]

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape; its weights are not read.

        Args:
            name: the tensor.

        Raises:
            CheckpointError: the file has no such tensor.
        """

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """Return a tensor's stored dtype; its weights are not read.

        Args:
            name: the tensor.

        Raises:
            CheckpointError: the file has no such tensor, or weights of its dtype are not supported.
        """

    @abstractmethod
    def num_bytes(self, name: str) -> int:
        """Return a tensor's bytes in the file; its weights are not read.

        Args:
            name: the tensor.

        Raises:
            CheckpointError: the file has no such tensor.
        """

    @abstractmethod
    def offset(self, name: str) -> int | None:
        """Return a tensor's offset in the file in bytes, or None if it does not lie there as one run of bytes.

        Args:
            name: the tensor.

        Raises:
            CheckpointError: the file has no such tensor, or it has not been downloaded.
        """

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """Return a tensor, mapped from the file: its pages are read when they are first used.

        Args:
            name: the tensor.

        Raises:
            CheckpointError: the file has no such tensor, or it has not been downloaded.
        """

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise CheckpointError(f"{self.path} has no tensor {name!r}, though the index says so; fetch the checkpoint again")


class _SafetensorsShard(Shard):
    def __init__(self, path: Path, present: frozenset[str] | None = None) -> None:
        self.path = path
        self._present = present
        try:
            # Check the header before mapping: our reader's errors name the file and the fault.
            self._header = read_header(path)
            self._file = safe_open(str(path), framework="pt")
        except (SafetensorError, OSError, MemoryError) as error:
            damage = CheckpointError(f"{path} is damaged or not a safetensors file ({error}); fetch it again")
            raise refusal_to_read(path, error) or damage from error
        self.names = frozenset(self._header.tensors)
        self.in_order = tuple(sorted(self.names))

    def _entry(self, name: str) -> TensorHeader:
        self._check(name)
        return self._header.tensors[name]

    def _check_present(self, name: str) -> None:
        if self._present is not None and name not in self._present:
            raise CheckpointError(f"{name} has not been downloaded: of {self.path} only other tensors were asked for")

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        stored = self._entry(name).dtype_name
        if stored not in DTYPES:
            raise CheckpointError(f"{name} in {self.path} is stored as {stored}, which is not supported")
        return DTYPES[stored]

    def num_bytes(self, name: str) -> int:
        return self._entry(name).num_bytes

    def offset(self, name: str) -> int | None:
        self._check_present(name)
        return self._entry(name).start

    def read(self, name: str) -> torch.Tensor:
        self._check(name)
        self._check_present(name)
        tensor: torch.Tensor = self._file.get_slice(name)[...]
        return tensor


class _TorchShard(Shard):
    def __init__(self, path: Path) -> None:
        self.path = path
        content = read_torch_file(path, "file of nothing but tensors", "use a safetensors checkpoint")
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} holds no table of tensors; is it a checkpoint's weights?")
        self._tensors = check_plain(content, str(path))
        self.names = frozenset(content)
        self.in_order = tuple(content)

    def _tensor(self, name: str) -> torch.Tensor:
        self._check(name)
        return self._tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensor(name).dtype

    def num_bytes(self, name: str) -> int:
        return self._tensor(name).nbytes

    def offset(self, name: str) -> int | None:
        self._check(name)
        return None

    def read(self, name: str) -> torch.Tensor:
        return self._tensor(name)


def open_shard(path: Path) -> Shard:
    """Open one file of a checkpoint: safetensors, or a torch file (``.bin``) of tensors alone.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is empty, cut short, not of its kind, or would run code when read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint file {path} is missing")
    return _SafetensorsShard(path) if path.suffix == ".safetensors" else _TorchShard(path)


def open_partial_shard(path: Path, present: frozenset[str]) -> Shard:
    """Open a safetensors file of which only some tensors have been downloaded; reading another one is an error.

    Args:
        path: the file, as long as the whole one.
        present: names of the tensors that have been downloaded.

    Raises:
        CheckpointError: the file is no safetensors file.
    """
    return _SafetensorsShard(path, present)


class LazyTensor:
    """A tensor of a shard that is read when it is sliced, as transformers' loader does with safetensors' own slices.

    Args:
        shard: the file that holds it.
        name: its name there.
        on_read: called with the tensor's name and size in bytes once it has been read.
    """

    def __init__(self, shard: Shard, name: str, on_read: Callable[[str, int], None]) -> None:
        self._shard = shard
        self._name = name
        self._on_read = on_read

    def __getitem__(self, index: EllipsisType) -> torch.Tensor:
        tensor = self._shard.read(self._name)
        self._on_read(self._name, tensor.nbytes)
        return tensor

    @property
    def dtype(self) -> torch.dtype:
        """The stored dtype."""
        return self._shard.dtype(self._name)

    def get_shape(self) -> list[int]:
        """Return the tensor's shape, from the header alone."""
        return list(self._shard.shape(self._name))
