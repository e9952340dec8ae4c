"""A run's folder opened for use: its record, and the base checkpoint that it began from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from splitlearn.app.checkpoints import find_checkpoint, read_checkpoint
from splitlearn.checkpoint import CheckpointError, CheckpointSource
from splitlearn.data import base_tokenizer_digest
from splitlearn.embedded import resolve_model
from splitlearn.export import RunRecord, load_base_part
from splitlearn.model import (
    PartLoader,
    open_checkpoint,
    part_digest,
    plan_cut,
    quantization_config,
    quantized_names,
    read_config,
)
from splitlearn.training import compare_bases, parse_dtype


def open_run(folder: str, ckpt: str | None = None) -> tuple[RunRecord, PartLoader]:
    """Read a run's folder, open its base checkpoint, and see that it is still what the run began from.

    Args:
        folder: the run's folder.
        ckpt: ``last``, ``best`` or the path of a checkpoint; None takes what a completed run ended with.

    Returns:
        The run, in the state that is wanted, and its base checkpoint.

    Raises:
        FileNotFoundError: the folder is no run's, or what is wanted of it is not there.
        CheckpointError: the base checkpoint is another by now, or a file is damaged.
    """
    path = find_checkpoint(ckpt, Path(folder).expanduser(), "ckpt")
    record = RunRecord.read(folder, None if path is None else _read_own(path))
    model = record.config["model"]
    name = resolve_model(model["name_or_path"])
    # The commit that the run began from, also if the branch has moved since.
    source = CheckpointSource(name, record.commit)
    config = read_config(name, model["type"], source.commit)
    # Runs of older releases do not say; what they left out was known to transformers.
    unexpected = model.get("unexpected_tensors", "auto")
    untie = model.get("untie", False)
    loader = open_checkpoint(config, source, parse_dtype(model["dtype"]), unexpected_tensors=unexpected, untie=untie)
    check_base(record, loader)
    return record, loader


def _read_own(path: str) -> dict[str, Any]:
    content = read_checkpoint(path)
    if "trained" not in content:
        raise CheckpointError(f"{path} does not say what of each part was trained; it is of an older release")
    return content


def check_base(record: RunRecord, loader: PartLoader) -> None:
    """Refuse a base checkpoint that is another than the one that a run began from.

    Where all parts were trained as a whole, only the configuration and the tokenizer are used, and compared.

    Raises:
        CheckpointError: it is another; the message shows the difference.
    """
    saved, model = record.base, record.config["model"]
    plan = plan_cut(loader.blueprint.config, *record.split_points)
    in_few_bits: frozenset[str] = frozenset()
    if model.get("quantization") is not None:
        in_few_bits = quantized_names(loader.blueprint.meta_model, quantization_config(model["quantization"]))
    weights = {
        part.name: part_digest(load_base_part(loader, part, record.part_dtype(part.name)), in_few_bits)
        for part in plan.parts
        if part.name in saved.get("base_weights", {})
    }
    commit = loader.source.commit
    base = {"model": loader.source.name if commit else None, "commit": commit, "dtype": None, "base_weights": weights}
    base |= {"config": json.loads(loader.blueprint.config.to_json_string(use_diff=False))}
    known = {name: value for name, value in saved.items() if name in base}
    differences = compare_bases(known, base)
    if saved.get("tokenizer") not in (None, base_tokenizer_digest(loader.source.name, commit)):
        differences.append("the tokenizer is another")
    if differences:
        raise CheckpointError(
            f"the base checkpoint {loader.source.name} is another than the one that the run in {record.folder} began from: "
            f"{'; '.join(differences[:5])}"
        )
