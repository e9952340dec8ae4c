"""Writing safetensors files that others may read, and comparing them with the digest that they carry."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.checkpoint.header import read_header
from splitlearn.files import refusal_to_read, whole_file
from splitlearn.redaction import reason_of

# In a file's header: a digest of its tensors, which safetensors itself does not keep.
_DIGEST = "sha256"


def write_tensor_file(
    tensors: Mapping[str, torch.Tensor], path: Path, notes: Mapping[str, str] | None = None, has_digest: bool = False
) -> None:
    """Write tensors as a safetensors file, whole or not at all.

    Args:
        tensors: by name.
        path: the file; its folder is made if need be.
        notes: further texts for the file's header.
        has_digest: whether a digest of the tensors goes into the header, for `verify_tensor_file`.

    Raises:
        WriteError: the file cannot be written or the disk is full; an older file is left as it was.
    """
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    digest = {_DIGEST: _digest(tensors)} if has_digest else {}
    with whole_file(path, num_bytes) as temporary:
        save_file(dict(tensors), temporary, {"format": "pt", **(notes or {}), **digest})


def read_tensor_file(path: Path, remedy: str) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file.

    Args:
        path: the file.
        remedy: the remedy for a damaged file, for messages.

    Raises:
        CheckpointError: it is damaged or no safetensors file.
        FileNotFoundError: there is no such file.
    """
    return _read(path, remedy)[0]


def verify_tensor_file(path: Path, remedy: str) -> None:
    """Read all tensors of a safetensors file, and compare them with the digest in its header if there is one.

    Args:
        path: the file.
        remedy: the remedy for a damaged file, for messages.

    Raises:
        CheckpointError: it is damaged.
        FileNotFoundError: there is no such file.
    """
    tensors, notes = _read(path, remedy)
    if notes.get(_DIGEST, "") not in ("", _digest(tensors)):
        raise CheckpointError(f"{path} is damaged (its tensors are not those that were written); {remedy}")


def _read(path: Path, remedy: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        # Checked before it is mapped, by a reader that says which file and why.
        names = sorted(read_header(path).tensors)
        with safe_open(str(path), framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {remedy}") from error
    except (SafetensorError, OSError, RuntimeError, MemoryError) as error:
        damage = CheckpointError(f"{path} is damaged, or no safetensors file ({reason_of(error)}); {remedy}")
        raise refusal_to_read(path, error) or damage from error


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
