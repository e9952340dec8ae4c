"""Reading ahead where mapped pages come over a network, one page fault at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

_NETWORK_TYPES = ("nfs", "cifs", "smb", "9p", "afs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.")
# Fraction of free memory that prefetching may fill; the rest is left for allocations meanwhile.
_USABLE = 0.9
_CHUNK_BYTES = 8 * 2**20
_WORKERS = 4


def is_on_network(path: Path) -> bool:
    """Whether a file lies on a network file system, by the type of the mount it is under.

    Args:
        path: the file.
    """
    resolved = str(path.resolve())
    mounts = sorted(psutil.disk_partitions(all=True), key=lambda mount: len(mount.mountpoint))
    holding = [mount for mount in mounts if Path(resolved).is_relative_to(mount.mountpoint)]
    return bool(holding) and holding[-1].fstype.lower().startswith(_NETWORK_TYPES)


def prefetch(path: Path, ranges: Iterable[tuple[int, int]]) -> int:
    """Read byte ranges of a file once, in order and several at a time, so that the system keeps their pages.

    Does nothing if they would not fit into most of the memory that is free now, since later pages would evict earlier ones.

    Args:
        path: the file.
        ranges: first byte, and one past the last.

    Returns:
        How many bytes were read.

    Raises:
        OSError: the file cannot be read.
    """
    ordered = sorted(ranges)
    if sum(end - start for start, end in ordered) > _USABLE * psutil.virtual_memory().available:
        return 0
    chunks = [(begin, min(begin + _CHUNK_BYTES, end)) for start, end in ordered for begin in range(start, end, _CHUNK_BYTES)]
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(_WORKERS, thread_name_prefix="prefetch") as pool:
        descriptor = file.fileno()
        return sum(pool.map(lambda chunk: len(os.pread(descriptor, chunk[1] - chunk[0], chunk[0])), chunks))
