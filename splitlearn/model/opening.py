"""Opening a checkpoint: its model is drawn and compared with what is stored, before weights are read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from splitlearn.checkpoint import CheckpointSource
from splitlearn.cut import PartSpec
from splitlearn.model.blueprint import Origin, draw_blueprint, read_generation_config, untie
from splitlearn.model.dtypes import loaded_dtype
from splitlearn.model.part_loading import PartLoader
from splitlearn.model.unexpected import describe_left_out

# Two tensors are compared piece by piece, so that neither is cast as a whole.
_PIECE = 2**22


def open_checkpoint(
    config: PreTrainedConfig,
    source: CheckpointSource,
    dtype: torch.dtype | None = None,
    parts: Sequence[PartSpec] | None = None,
    unexpected_tensors: str = "auto",
) -> PartLoader:
    """Draw a checkpoint's model and compare the two; a tie that the checkpoint contradicts is given up, as transformers does.

    Args:
        config: the model's configuration.
        source: the checkpoint.
        dtype: what floating-point weights become; None keeps the configuration's, or else what is stored.
        parts: the parts to be loaded; None means all.
        unexpected_tensors: what is done with tensors that the model does not have. ``"auto"`` leaves them out, with a warning,
            unless they speak for another model, ``"refuse"`` refuses them all, ``"leave_out"`` none.

    Raises:
        UnsupportedModelError: the model cannot be cut.
        CheckpointError: the checkpoint lacks tensors that the model needs, or has tensors that are refused.
        ValueError: ``unexpected_tensors`` is none of its words.
        FileNotFoundError: there is no checkpoint.
    """
    wanted = loaded_dtype(config, source, dtype)
    generation_config = read_generation_config(source)
    origin = Origin(str(Path(source.name).resolve()) if source.is_local else source.name, source.commit)
    blueprint = draw_blueprint(config, wanted, generation_config, origin)
    loader = PartLoader(blueprint, source, parts, unexpected_tensors)
    if loader.left_out and not _is_composite(config):
        # Of this very line, so that a command that opens a checkpoint several times warns once.
        warnings.warn(f"{source.name}: {describe_left_out(loader.left_out)}", stacklevel=1)
    contradicted = contradicted_ties(loader, parts)
    if not contradicted:
        return loader
    untied = draw_blueprint(untie(config), wanted, generation_config, origin)
    others = {target: owner for target, owner in blueprint.ties.items() if target not in contradicted}
    return PartLoader(replace(untied, ties=others), source, parts, unexpected_tensors)


def _is_composite(config: PreTrainedConfig) -> bool:
    """Whether a configuration describes models beside that of the text, whose tensors are left out as a matter of course."""
    return any(name != "text_config" for name in config.sub_configs)


def contradicted_ties(loader: PartLoader, parts: Sequence[PartSpec] | None = None) -> list[str]:
    """Return which tied tensors the checkpoint stores beside the ones they are tied to, with other values.

    Args:
        loader: the opened checkpoint.
        parts: the parts to be loaded. What is not on this machine yet is looked at only for parts that hold an end of the tie.
            None means all.

    Raises:
        FileNotFoundError: a shard is missing.
        CheckpointError: a shard is damaged.
    """
    source, blueprint = loader.source, loader.blueprint
    contradicted = []
    for pair in blueprint.ties.items():
        names = loader.stored_names(pair)
        if len(names) < 2:
            continue
        files = [source.weight_map[name] for name in names]
        is_held = parts is None or any(blueprint.belongs_to(end, part) for end in pair for part in parts)
        if not is_held and not _is_here(source, names, files):
            continue
        shards = source.open_shards(set(files), set(names))
        one, other = (shards[file].read(name) for file, name in zip(files, names, strict=True))
        if not _become_equal(one, other, loader.dtype_on_load(names[0], one.dtype)):
            contradicted.append(pair[0])
    return contradicted


def _is_here(source: CheckpointSource, names: Sequence[str], files: Sequence[str]) -> bool:
    """Whether tensors can be read without a download."""
    has_headers = all(file.endswith(".safetensors") for file in files)
    return source.is_local or (has_headers and not source.missing_bytes(names))


def _become_equal(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two stored tensors are equal once they are loaded in a dtype."""
    if one.shape != other.shape:
        return False
    if one.dtype == other.dtype and one.data_ptr() == other.data_ptr():
        return True
    pieces = zip(one.flatten().split(_PIECE), other.flatten().split(_PIECE), strict=True)
    return all(torch.equal(left.to(dtype), right.to(dtype)) for left, right in pieces)
