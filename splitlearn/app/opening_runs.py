"""A run's folder opened for use: its record, and the base checkpoint that it began from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from splitlearn.app.checkpoints import find_checkpoint, read_checkpoint
from splitlearn.boundary import U_SHAPED, BoundaryCodecs, PrivacySettings, Route, find_routes
from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import PART_NAMES, Placement
from splitlearn.data import base_tokenizer_digest
from splitlearn.defences import Defences, DefenceSettings
from splitlearn.embedded import resolve_model
from splitlearn.export import RunRecord, check_saved_state, load_base_part
from splitlearn.loading import ModelRequest, OpenedModel, quantization_config, quantized_names
from splitlearn.model import EMBEDDING_NOISE, ComposedCausalLM, part_digest
from splitlearn.naming import naming_group
from splitlearn.randomness import NamedGenerators, new_key
from splitlearn.runs import CONFIG_FILE
from splitlearn.training import compare_bases, parse_dtype


def open_run(folder: str, ckpt: str | None = None) -> tuple[RunRecord, OpenedModel]:
    """Read a run's folder, open its base checkpoint, and see that it is still what the run began from.

    Args:
        folder: the run's folder.
        ckpt: ``last``, ``best`` or the path of a checkpoint; None takes what a completed run ended with.

    Returns:
        The run, in the state that is wanted, and the model that it began from, cut as the run cut it.

    Raises:
        FileNotFoundError: the folder is no run's, or what is wanted of it is not there.
        CheckpointError: the base checkpoint is another by now, a file is damaged, or the folder holds files of two states.
        ValueError: the checkpoint is of another run.
    """
    record = read_run(folder, ckpt)
    return record, open_base(record)


def read_run(folder: str, ckpt: str | None = None) -> RunRecord:
    """Read a run's folder.

    Args:
        folder: as for `open_run`, like the other.
        ckpt: which state of the run is wanted.

    Raises:
        FileNotFoundError: the folder is no run's, or what is wanted of it is not there.
        CheckpointError: a file is damaged, or the folder holds files of two states.
        ValueError: the checkpoint is of another run.
    """
    path = find_checkpoint(ckpt, Path(folder).expanduser(), "ckpt")
    record = RunRecord.read(folder, None if path is None else read_checkpoint(path))
    check_saved_state(record)
    return record


def open_base(record: RunRecord, parts: Sequence[str] = PART_NAMES) -> OpenedModel:
    """Open the base checkpoint of a run, and see that it is still what the run began from.

    Args:
        record: the run.
        parts: the parts that are wanted; of others no weights are read.

    Raises:
        CheckpointError: the base checkpoint is another by now.
    """
    opened = request_of_base(record).open(list(parts))
    # The parts of the base are loaded now, to compare them.
    opened.settle_ties()
    check_base(record, opened, parts)
    return opened


def crossing_of(record: RunRecord) -> tuple[tuple[Route, Route], BoundaryCodecs]:
    """Return which way data passed the cuts of a run, and how they were sent.

    Raises:
        ValueError: the run's configuration is damaged, or names a codec that is not installed.
    """
    placement = record.config.get("placement")
    try:
        with naming_group("boundary"):
            codecs = BoundaryCodecs.from_plain(record.config.get("boundary"))
        return U_SHAPED if placement is None else find_routes(_without_devices(placement)), codecs
    except ValueError as error:
        raise ValueError(f"{record.folder / CONFIG_FILE} cannot be used: {error}") from error


def defend(model: ComposedCausalLM, record: RunRecord) -> None:
    """Put on a model the defences of a run that act after training, as the run left them.

    Args:
        model: the run's model, or its base.
        record: the run.

    Raises:
        ValueError: the run's configuration or record is damaged.
    """
    try:
        with naming_group("defence"):
            defences = Defences(DefenceSettings.from_plain(record.config.get("defence")).after_training)
        with naming_group("privacy"):
            privacy = PrivacySettings.from_plain(record.config.get("privacy"))
        if model.generators is None and not privacy.reproducible_noise:
            # Of the seed of a command everybody may know.
            model.generators = NamedGenerators(torch.initial_seed(), None, [EMBEDDING_NOISE], new_key())
        with naming_group("defence"):
            defences.attach(model)
            restore_defences(defences, record)
    except ValueError as error:
        raise ValueError(f"{record.folder} cannot be used: {error}") from error


def restore_defences(defences: Defences, record: RunRecord) -> None:
    """Give defences what they had measured in the state of a run that is wanted.

    Raises:
        ValueError: the record is damaged.
    """
    if record.checkpoint is None:
        defences.load_measured(record.summary.defence or {})
    else:
        defences.load_state_dict(record.defence_states)


def _without_devices(settings: Mapping[str, Any]) -> Placement:
    """Return a run's placement on the CPU: the devices of its machine need not be here, and no route depends on them."""
    parties = {
        name: {key: value for key, value in party.items() if key != "devices"}
        for name, party in (settings.get("parties") or {}).items()
    }
    return Placement.resolve(parties, str(settings.get("data")), str(settings.get("labels")), num_gpus=0)


def request_of_base(record: RunRecord) -> ModelRequest:
    """Return which model a run began from, at the commit of then, unquantized and cut as the run cut it."""
    model = record.config["model"]
    return ModelRequest(
        resolve_model(model["name_or_path"]),
        *record.split_points,
        model_type=model["type"],
        # None for a local folder. The branch may have moved since.
        revision=record.commit,
        dtype=parse_dtype(model["dtype"]),
        # Runs of older releases do not say; what they left out was known to transformers.
        unexpected_tensors=model.get("unexpected_tensors", "auto"),
        untie=model.get("untie", False),
    )


def check_base(record: RunRecord, opened: OpenedModel, parts: Sequence[str] = PART_NAMES) -> None:
    """Refuse a base checkpoint that is another than the one that a run began from.

    Where all parts were trained as a whole, only the configuration and the tokenizer are used, and compared.

    Args:
        record: the run.
        opened: the base checkpoint.
        parts: the parts whose weights are compared.

    Raises:
        CheckpointError: it is another; the message shows the difference.
    """
    saved, model = dict(record.base), record.config["model"]
    if saved.get("base_weights") is not None:
        saved["base_weights"] = {name: digest for name, digest in saved["base_weights"].items() if name in parts}
    in_few_bits: frozenset[str] = frozenset()
    if model.get("quantization") is not None:
        in_few_bits = quantized_names(opened.blueprint.meta_model, quantization_config(model["quantization"]))
    weights = {
        part.name: part_digest(load_base_part(opened, part, record.part_dtype(part.name)), in_few_bits)
        for part in opened.plan.parts
        if part.name in (saved.get("base_weights") or {})
    }
    source, commit = opened.source, opened.source.commit
    base = {"model": source.name if commit else None, "commit": commit, "dtype": None, "base_weights": weights}
    base |= {"config": json.loads(opened.blueprint.config.to_json_string(use_diff=False))}
    known = {name: value for name, value in saved.items() if name in base}
    differences = compare_bases(known, base)
    if saved.get("tokenizer") not in (None, base_tokenizer_digest(source.name, commit)):
        differences.append("the tokenizer is another")
    if differences:
        raise CheckpointError(
            f"the base checkpoint {source.name} is another than the one that the run in {record.folder} began from: "
            f"{'; '.join(differences[:5])}"
        )
