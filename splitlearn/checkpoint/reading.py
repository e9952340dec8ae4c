"""Reading tensors of a checkpoint into private memory, each byte once, straight to its final place.

A tensor that is not written and keeps its dtype is better mapped (`Shard.read`). Tensors that are trained or cast need private
memory anyway; here it is filled in the file's order, by a few threads, without a second copy.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.checkpoint.shard import Shard

# Large enough that a system call costs little beside the copy, small enough to stay in the processor's cache and to be
# interrupted soon.
_CHUNK_BYTES = 4 * 2**20
_MAX_WORKERS = 4


@dataclass(frozen=True)
class TensorRead:
    """One tensor to read.

    Attributes:
        name: its name in the file.
        shard: the file.
        dtype: the dtype to cast it to.
    """

    name: str
    shard: Shard
    dtype: torch.dtype


def read_tensors(reads: Sequence[TensorRead], on_read: Callable[[str, int], None]) -> dict[str, torch.Tensor]:
    """Read tensors into private memory, in the order in which they lie in their files.

    Args:
        reads: the tensors to read.
        on_read: called with each tensor's name and its bytes in the file once it has been read, from several threads.

    Returns:
        The tensors on the CPU, contiguous, by name.

    Raises:
        CheckpointError: a file ends before a tensor does.
        OSError: a file cannot be read.
    """
    ordered = sorted(reads, key=lambda read: (str(read.shard.path), read.shard.offset(read.name) or 0))
    scratch = threading.local()

    def fill(read: TensorRead) -> torch.Tensor:
        tensor = _read(read, scratch)
        on_read(read.name, read.shard.num_bytes(read.name))
        return tensor

    pool = ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1), thread_name_prefix="read-tensors")
    try:
        return {read.name: tensor for read, tensor in zip(ordered, pool.map(fill, ordered), strict=True)}
    finally:
        # After an interruption finish the tensors under way, and start no others.
        pool.shutdown(cancel_futures=True)


def _read(read: TensorRead, scratch: threading.local) -> torch.Tensor:
    offset = read.shard.offset(read.name)
    if offset is None:
        return read.shard.read(read.name).to(read.dtype, copy=True).contiguous()
    stored = read.shard.dtype(read.name)
    tensor = torch.empty(read.shard.shape(read.name), dtype=read.dtype)
    flat = tensor.view(-1)
    with read.shard.path.open("rb", buffering=0) as file:
        if stored == read.dtype:
            _fill(file.fileno(), flat.view(torch.uint8), offset, read)
            return tensor
        if not hasattr(scratch, "bytes"):
            scratch.bytes = torch.empty(_CHUNK_BYTES, dtype=torch.uint8)
        step = _CHUNK_BYTES // stored.itemsize
        for begin in range(0, len(flat), step):
            part = flat[begin : begin + step]
            chunk = scratch.bytes[: len(part) * stored.itemsize]
            _fill(file.fileno(), chunk, offset + begin * stored.itemsize, read)
            part.copy_(chunk.view(stored))
    return tensor


def _fill(descriptor: int, target: torch.Tensor, offset: int, read: TensorRead) -> None:
    """Fill ``target`` (bytes) from the file's bytes at ``offset``."""
    view = memoryview(target.numpy())  # type: ignore[arg-type]  # numpy's stubs do not say that arrays are buffers
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done : done + _CHUNK_BYTES]], offset + done)
        if count == 0:
            raise CheckpointError(f"{read.shard.path} ends in the middle of {read.name}; fetch it again")
        done += count
