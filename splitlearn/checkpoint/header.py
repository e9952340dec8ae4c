"""Reading the header of a safetensors file, without its weights: https://huggingface.co/docs/safetensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.json_text import JsonError, parse_json_object

# A file begins with the length of the JSON text behind these bytes, little-endian.
LENGTH_BYTES = 8
# The format's own limit; a longer one is an attack or damage.
MAX_HEADER_BYTES = 100 * 10**6
# torch's own limits; a shape beyond them could take very long to multiply.
_MAX_DIMENSIONS = 64
_MAX_NUMBER = 2**63 - 1

# The format's names of the dtypes in which a model's weights may be stored.
DTYPES = {
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


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a file.

    Attributes:
        dtype_name: its dtype as the format names it, for example ``"BF16"``.
        shape: its dimensions.
        start: offset of its first byte in the file.
        end: one past its last byte.
    """

    dtype_name: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor in the file."""
        return self.end - self.start

    @property
    def num_elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FileHeader:
    """The content of one safetensors file.

    Attributes:
        tensors: each tensor by name.
        file_bytes: length of the whole file in bytes.
        data_start: offset of the weights; the header lies before it.
    """

    tensors: Mapping[str, TensorHeader]
    file_bytes: int
    data_start: int


def header_length(first_bytes: bytes, where: str) -> int:
    """Return the length in bytes of the header behind a file's first 8 bytes.

    Args:
        first_bytes: the first 8 bytes of the file, or more.
        where: the file, for messages.

    Raises:
        CheckpointError: there are fewer bytes, or no header has this length.
    """
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if len(first_bytes) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
        raise CheckpointError(f"{where} is damaged or not a safetensors file (no header); fetch it again")
    return length


def parse_header(text: bytes, file_bytes: int, where: str) -> FileHeader:
    """Read a header's JSON and check that its tensors fill the rest of the file without gaps.

    Args:
        text: the JSON, without the 8 bytes before it.
        file_bytes: length of the file in bytes.
        where: the file, for messages.

    Returns:
        The tensors and their places in the file.

    Raises:
        CheckpointError: the text is no such header, or the file is longer or shorter than it says.
    """
    data_start = LENGTH_BYTES + len(text)
    try:
        entries = parse_json_object(text, "its header", MAX_HEADER_BYTES)
        tensors = {name: _tensor_header(name, entry, data_start) for name, entry in entries.items() if name != "__metadata__"}
    except JsonError as error:
        raise CheckpointError(f"{where} is damaged or not a safetensors file ({error}); fetch it again") from error
    position = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        bits = tensor.num_elements * _bits(tensor.dtype_name)
        if tensor.start != position or tensor.end < tensor.start or (bits and tensor.num_bytes * 8 != bits):
            raise CheckpointError(f"{where} is damaged: its header puts {name} at the wrong place; fetch it again")
        position = tensor.end
    if position != file_bytes:
        raise CheckpointError(
            f"{where} is damaged: it has {file_bytes:,} bytes, but its header says {position:,}; fetch it again"
        )
    return FileHeader(tensors, file_bytes, data_start)


def _bits(dtype_name: str) -> int:
    dtype = DTYPES.get(dtype_name)
    return 0 if dtype is None else 8 * dtype.itemsize


def _tensor_header(name: str, entry: Any, data_start: int) -> TensorHeader:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise JsonError(f"its header does not say the dtype of {name[:200]!r}")
    offsets: Any = entry.get("data_offsets")
    shape: Any = entry.get("shape")
    if not _are_numbers(offsets) or len(offsets) != 2 or not _are_numbers(shape) or len(shape) > _MAX_DIMENSIONS:
        raise JsonError(f"its header holds no shape and place of {name[:200]!r}")
    if math.prod(size for size in shape if size) > _MAX_NUMBER:
        raise JsonError(f"the shape of {name[:200]!r} in its header is larger than a tensor can be")
    start, end = offsets
    return TensorHeader(entry["dtype"], tuple(shape), data_start + start, data_start + end)


def _are_numbers(values: Any) -> bool:
    """Whether ``values`` is a list of sizes or offsets."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _MAX_NUMBER for value in values)


def read_header(path: Path) -> FileHeader:
    """Read the header of a local safetensors file; its weights are not touched.

    Args:
        path: the file.

    Returns:
        The tensors and their places in the file.

    Raises:
        CheckpointError: the file is empty, cut short, or no safetensors file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        length = header_length(file.read(LENGTH_BYTES), str(path))
        text = file.read(length)
    if len(text) < length:
        raise CheckpointError(f"{path} is damaged or not a safetensors file (its header is cut short); fetch it again")
    return parse_header(text, path.stat().st_size, str(path))
