"""Turning a GGUF file or a single-file checkpoint into a folder of safetensors shards with an index."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.checkpoint.main_file import SINGLE_FILE
from splitlearn.checkpoint.shard import open_shard
from splitlearn.checkpoint.source import CheckpointSource
from splitlearn.files import check_room
from splitlearn.redaction import reason_of

_MAX_SHARD_SIZE = "100MB"


def prepare_checkpoint(
    source: str | Path, out: str | Path, dtype: torch.dtype = torch.float32, max_shard_size: str = _MAX_SHARD_SIZE
) -> None:
    """Write a sharded safetensors checkpoint, with configuration and tokenizer, into an existing empty folder.

    Args:
        source: a GGUF file (its weights are dequantised), a single ``.safetensors`` file with its ``config.json`` beside it,
            or a folder that holds either.
        out: the folder to fill.
        dtype: dtype of a GGUF's weights after dequantising; safetensors weights keep theirs.
        max_shard_size: largest size of one shard, for example ``"100MB"`` (1 MB is 10**6 bytes).

    Raises:
        FileNotFoundError: the source or its ``config.json`` does not exist.
        CheckpointError: the source is not one of these, has a PEFT adapter beside it, or ``out`` is not empty.
        ImportError: a GGUF file is given and the packages that read it are not installed.
        WriteError: the disk has no room.
    """
    file, target = _find_file(Path(source)), Path(out)
    if not target.is_dir() or any(target.iterdir()):
        raise CheckpointError(f"{target} must be an empty folder")
    # An adapter would be copied along, or applied to the dequantised weights.
    CheckpointSource(file.parent).refuse_adapter()
    # What a GGUF file holds takes more room once it is dequantised.
    check_room(target, file.stat().st_size, in_one_file=False)
    if file.suffix == ".gguf":
        _prepare_gguf(file, target, dtype, max_shard_size)
    else:
        _prepare_single_file(file, target, max_shard_size)


def _find_file(source: Path) -> Path:
    if source.is_file():
        if source.suffix not in (".gguf", ".safetensors"):
            raise CheckpointError(f"{source} is neither a .gguf nor a .safetensors file")
        return source
    if not source.is_dir():
        raise FileNotFoundError(f"{source} does not exist")
    if (source / SINGLE_FILE).is_file():
        return source / SINGLE_FILE
    files = sorted(source.glob("*.gguf"))
    if len(files) != 1:
        raise CheckpointError(f"{source} holds no {SINGLE_FILE} and {len(files)} GGUF files; name the file to prepare")
    return files[0]


def _prepare_gguf(file: Path, out: Path, dtype: torch.dtype, max_shard_size: str) -> None:
    absent = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if absent:
        raise ImportError(f"reading {file.name} needs {' and '.join(absent)}: pip install 'splitlearn[gguf]'")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers import __version__ as version

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(
            f"transformers {version} cannot make a tokenizer of what {file} holds ({type(error).__name__}: "
            f"{reason_of(error)}); a newer release may, or take another file of that model"
        ) from error
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=dtype, quantization_config=GgufConfig(dequantize=True), trust_remote_code=False
    )
    model.save_pretrained(out, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(out)


def _prepare_single_file(file: Path, out: Path, max_shard_size: str) -> None:
    if not (file.parent / "config.json").is_file():
        raise FileNotFoundError(f"{file.parent / 'config.json'} is missing; a checkpoint's configuration must lie beside it")
    shard = open_shard(file)
    with safe_open(str(file), framework="pt") as opened:
        metadata: dict[str, Any] = opened.metadata() or {}
    # The tensors stay mapped from the source: only the shard being written is in memory.
    tensors = {name: shard.read(name) for name in sorted(shard.names)}
    save_torch_state_dict(tensors, out, max_shard_size=max_shard_size, metadata={"format": "pt", **metadata})
    for other in file.parent.iterdir():
        is_text = other.suffix in (".json", ".txt", ".model", ".jinja")
        if other.is_file() and is_text and not other.name.endswith(".index.json"):
            shutil.copy(other, out / other.name)
