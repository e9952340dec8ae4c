"""One safetensors file, opened without reading its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import EllipsisType

import torch
from safetensors import SafetensorError, safe_open

from splitlearn.checkpoint.errors import CheckpointError

# The format's own names, https://huggingface.co/docs/safetensors; only what a model's weights may be stored in.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Shard:
    """A safetensors file whose header has been read and checked; its weights are mapped, not read.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is empty, cut short, or not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"the checkpoint file {path} is missing")
        self.path = path
        try:
            self._file = safe_open(str(path), framework="pt")
            self.names = frozenset(self._file.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or not a safetensors file ({error}); fetch it again") from error

    def _slice(self, name: str):  # type: ignore[no-untyped-def]
        if name not in self.names:
            raise CheckpointError(f"{self.path} has no tensor {name!r}, though the index says so; fetch the checkpoint again")
        return self._file.get_slice(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the tensor ``name``, from the header alone."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Return the stored dtype of the tensor ``name``, from the header alone.

        Raises:
            CheckpointError: the file has no such tensor, or its dtype is not one that weights are stored in.
        """
        stored = self._slice(name).get_dtype()
        if stored not in _DTYPES:
            raise CheckpointError(f"{name} in {self.path} is stored as {stored}, which is not supported")
        return _DTYPES[stored]

    def read(self, name: str) -> torch.Tensor:
        """Return the tensor ``name``, mapped from the file: its pages are read when they are first used."""
        tensor: torch.Tensor = self._slice(name)[...]
        return tensor


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

    def get_shape(self) -> list[int]:
        """Return the tensor's shape, from the header alone."""
        return list(self._shard.shape(self._name))
