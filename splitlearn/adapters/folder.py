"""Adapters on disk: one ordinary PEFT adapter for the unsplit model, and beside it a file for each part."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from splitlearn.adapters.layers import adapter_tensors, load_adapter_tensors
from splitlearn.adapters.settings import AdapterSettings
from splitlearn.adapters.unsplit_config import unsplit_config
from splitlearn.checkpoint import CheckpointError, read_tensor_file, write_tensor_file
from splitlearn.files import refusal_to_read, whole_folder, write_json
from splitlearn.json_text import JsonError, read_json_object
from splitlearn.model import SplitModel
from splitlearn.runs import Stamp

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
# PEFT's path of the wrapped model, which its tensor names begin with.
_PREFIX = "base_model.model."
_REMEDY = "use the run by its checkpoints, or train again"


def save_adapters(
    parts: Sequence[SplitModel], settings: AdapterSettings, folder: Path, stamp: Stamp | None = None
) -> list[Path]:
    """Write the adapters of the parts, so that ``PeftModel.from_pretrained(unsplit_model, folder)`` reads them.

    ``adapter_config.json`` and ``adapter_model.safetensors`` are PEFT's; ``bottom.safetensors`` and so on hold the tensors of
    one part each, under the same names, for parties that hold just that part.

    Args:
        parts: the parts of the model.
        settings: which adapters they have.
        folder: where to write; it is made if it does not exist.
        stamp: the run and step that the adapters belong to, for the headers of the files; None leaves it out.

    Returns:
        The paths written.

    Raises:
        ValueError: parts differ in a setting that one PEFT adapter cannot have twice.
        OSError: the folder cannot be written or the disk is full.
    """
    config = unsplit_config(parts, settings)
    notes = {name: str(value) for name, value in stamp.to_dict().items()} if stamp else None
    by_part = {part.spec.name: _renamed(part) for part in parts}
    files = {f"{name}.safetensors": tensors for name, tensors in by_part.items() if tensors}
    files[ADAPTER_FILE] = {name: tensor for tensors in by_part.values() for name, tensor in tensors.items()}
    with whole_folder(folder, exist_ok=True) as temporary:
        for file, tensors in files.items():
            write_tensor_file(tensors, temporary / file, notes, has_digest=True)
        config.save_pretrained(str(temporary))
    return [folder / name for name in (*files, CONFIG_FILE)]


def load_adapters(parts: Sequence[SplitModel], folder: Path) -> None:
    """Fill the adapters of the parts from a folder that `save_adapters` or PEFT wrote.

    Args:
        parts: parts of the model, with adapters.
        folder: the folder.

    Raises:
        FileNotFoundError: the folder holds no adapter.
        CheckpointError: the file is damaged, or a tensor is missing or has another shape.
    """
    path = folder / ADAPTER_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {ADAPTER_FILE}; is it a PEFT adapter?")
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in read_tensor_file(path, _REMEDY).items()}
    try:
        for part in parts:
            load_adapter_tensors(part, tensors)
    except ValueError as error:
        raise CheckpointError(f"{path} does not fit: {error}; {_REMEDY}") from error


def read_stamp(folder: Path) -> Stamp | None:
    """Return the run and step that the adapter in a folder belongs to; None if its file, of an older release, names none.

    Args:
        folder: the folder.

    Raises:
        FileNotFoundError: the folder holds no adapter.
        ValueError: the file is damaged.
    """
    path = folder / ADAPTER_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {ADAPTER_FILE}; is it a PEFT adapter?")
    try:
        with safe_open(str(path), framework="pt") as opened:
            return Stamp.from_plain(opened.metadata())
    except (SafetensorError, MemoryError) as error:
        raise refusal_to_read(path, error) or ValueError(f"{path} is damaged ({error})") from error


def copy_adapter(folder: Path, out: Path, stands_alone: bool) -> None:
    """Copy the two files that PEFT reads from a folder that `save_adapters` wrote.

    Args:
        folder: where the adapter is.
        out: an existing folder.
        stands_alone: whether the adapter fits its base model unchanged; otherwise the copy names no base model, because it
            fits only the weights beside it.

    Raises:
        FileNotFoundError: the folder holds no adapter.
        OSError: it cannot be written or the disk is full.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}; is it a PEFT adapter?")
    try:
        settings = read_json_object(path)
    except JsonError as error:
        raise CheckpointError(f"{error}; {_REMEDY}") from error
    if not stands_alone:
        settings |= {"base_model_name_or_path": None, "revision": None}
    shutil.copyfile(folder / ADAPTER_FILE, out / ADAPTER_FILE)
    write_json(out / CONFIG_FILE, settings)


def _renamed(part: SplitModel) -> dict[str, torch.Tensor]:
    tensors = adapter_tensors(part)
    return {f"{_PREFIX}{name}": tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
