"""Reading torch files so that damage is one sentence with the file's path.

A torch file is a zip archive, and each of its entries has a checksum (CRC-32), which torch computes while it writes. torch does
not compare them when it reads; `verify_torch_file` does.
"""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.files import refusal_to_read
from splitlearn.json_text import MAX_DEPTH
from splitlearn.redaction import reason_of

_CHUNK_BYTES = 4 * 2**20
# A checkpoint holds a few values for each trained tensor. Random number generators have states of 128 bits.
_MAX_VALUES = 10**6
# How a pickle names the class; no run writes one.
_FILLED = (b"cbuiltins\nbytearray\n", b"c__builtin__\nbytearray\n")
_MAX_BITS = 256


def read_torch_file(path: Path, kind: str, remedy: str) -> Any:
    """Read a torch file of plain values and tensors, which are mapped from the file where that can be done.

    Args:
        path: the file.
        kind: the kind of file that is expected, for messages, such as ``"checkpoint of a run"``.
        remedy: the remedy for a damaged file, for messages.

    Raises:
        CheckpointError: it is empty, cut short, something else, or would run code when read.
        FileNotFoundError: there is no such file.
        ReadError: the system does not let it be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file():
        raise CheckpointError(f"{path} is a folder and no {kind}; {remedy}")
    try:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _refuse_compressed(path)
        else:
            _refuse_filled_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:
        # Damaged archives and pickles make torch raise almost anything.
        damage = CheckpointError(f"{path} is damaged, or no {kind} ({type(error).__name__}); {remedy}")
        raise refusal_to_read(path, error) or damage from error
    fault = _excess(content, path.stat().st_size)
    if fault is not None:
        raise CheckpointError(f"{path} is damaged, or no {kind} (it holds {fault}); {remedy}")
    return content


def _refuse_compressed(path: Path) -> None:
    """Refuse archives with compressed entries, which a small file can make fill the memory; torch writes none."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > entry.compress_size:
                raise zipfile.BadZipFile("it is compressed")
            if entry.filename.endswith("data.pkl"):
                _refuse_filled(archive.read(entry))


def _refuse_filled(pickle: bytes | mmap.mmap) -> None:
    """Refuse a pickle that makes bytes of a length that it names: torch lets it, and some letters would fill the memory."""
    if any(pickle.find(name) >= 0 for name in _FILLED):
        raise ValueError("it makes bytes of a length that it names")


def _refuse_filled_file(path: Path) -> None:
    """Do so for a file from before torch 1.6: pickles with weights between them, mapped, since it may be large."""
    # Empty files cannot be mapped, and torch refuses them.
    if path.stat().st_size:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _refuse_filled(content)


def _excess(content: Any, file_bytes: int) -> str | None:
    """Return which values take time or memory without end from whoever walks over them or copies them; None if none does.

    A pickle of some bytes can say that a list holds itself, or the same list twice, and that twice again; and that a tensor is
    one number again and again.
    """
    level, num_values = [content], 0
    for _ in range(MAX_DEPTH):
        inner = [value for value in level if isinstance(value, (Mapping, list, tuple, set))]
        num_values += sum(len(value) for value in inner)
        if num_values > _MAX_VALUES:
            return f"more than {_MAX_VALUES:,} values"
        level = [entry for value in inner for entry in (value.values() if isinstance(value, Mapping) else value)]
        if any(type(entry) is int and entry.bit_length() > _MAX_BITS for entry in level):
            return f"a number of more than {_MAX_BITS} bits"
        if any(isinstance(entry, torch.Tensor) and _is_repeated(entry, file_bytes) for entry in level):
            return "a tensor with more places than numbers in the file"
        if not level:
            return None
    return "values that are nested too deeply"


def _is_repeated(tensor: torch.Tensor, file_bytes: int) -> bool:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        return False
    return tensor.nbytes > tensor.untyped_storage().nbytes() or tensor.untyped_storage().nbytes() > file_bytes


def verify_torch_file(path: Path, remedy: str) -> None:
    """Read a torch file to its end and compare the checksums that it carries.

    Raises:
        CheckpointError: it is damaged.
        FileNotFoundError: there is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as content:
                    while content.read(_CHUNK_BYTES):
                        pass
    except FileNotFoundError:
        raise
    except Exception as error:
        damage = CheckpointError(f"{path} is damaged ({reason_of(error)}); {remedy}")
        raise refusal_to_read(path, error) or damage from error


def check_plain(tensors: Mapping[Any, Any], where: str) -> dict[str, torch.Tensor]:
    """Return tensors by name if each is an ordinary one: numbers in memory, one for each place of its shape.

    Raises:
        CheckpointError: a value is no tensor, or one that is sparse, quantized, or without numbers; the message names it.
    """
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{where} holds {str(name)[:200]!r}, which is no tensor with a name")
        kind = next(_oddities(tensor), None)
        if kind is not None:
            raise CheckpointError(f"the tensor {name} in {where} is {kind}, and only plain tensors can be used; save it as one")
    return dict(tensors)


def _oddities(tensor: torch.Tensor) -> Iterator[str]:
    if tensor.layout != torch.strided:
        yield f"sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized:
        yield f"quantized ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.is_meta:
        yield "on the meta device, without numbers"
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        yield f"a {type(tensor).__name__}"
