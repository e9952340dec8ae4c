"""The parts of a run, as they were at its end or in one of its checkpoints."""

from __future__ import annotations

import torch

from splitlearn.adapters import add_adapters, load_adapters
from splitlearn.boundary import U_SHAPED, BoundaryCodecs, Route
from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import PART_NAMES, PartSpec, PartTraining
from splitlearn.export.run_record import RunRecord
from splitlearn.export.saved_state import load_saved_part, saved_adapters
from splitlearn.loading import OpenedModel
from splitlearn.model import ComposedCausalLM, SplitModel, fill_parameters, stored_names, tie_parts


def restore_part(opened: OpenedModel, part: PartSpec, record: RunRecord | None) -> SplitModel:
    """Return one part on the CPU as the run left it, with its adapters beside the base weights.

    Args:
        opened: the base model.
        part: the part.
        record: the run; None gives the base model's part.

    Raises:
        FileNotFoundError: the run did not save the part.
        CheckpointError: a file is damaged, or of another state of the run.
    """
    trained = PartTraining.FROZEN if record is None else record.trained[part.name]
    if record is not None and record.checkpoint is not None:
        return _restore_from_checkpoint(opened, part, record)
    if record is not None and trained.trains_weights:
        return load_saved_part(record, part.name)
    loaded = load_base_part(opened, part)
    if record is not None and trained is PartTraining.ADAPTERS:
        add_adapters([loaded], record.adapters)
        load_adapters([loaded], saved_adapters(record))
    return loaded


def load_base_part(opened: OpenedModel, part: PartSpec, dtype: str | None = None, writable: bool = False) -> SplitModel:
    """Return a part of the base checkpoint.

    Args:
        opened: the base model.
        part: the part.
        dtype: what its floating-point weights become; None takes the model's.
        writable: whether it will be written to.
    """
    loader = opened.loader if dtype is None else opened.loader_in(getattr(torch, dtype))
    loaded = loader.load(loader.reading(part), lambda name, size_bytes: None, {}, writable=writable)
    loader.close(part)
    return loaded


def _restore_from_checkpoint(opened: OpenedModel, part: PartSpec, record: RunRecord) -> SplitModel:
    """Return a part of the base checkpoint with the trained tensors that a checkpoint of the run holds."""
    loaded = load_base_part(opened, part, record.part_dtype(part.name), writable=record.trained[part.name].trains_anything)
    added = add_adapters([loaded], record.adapters) if record.adapters.adapts(part.name) else {}
    filled = fill_parameters([loaded], record.trained_tensors)
    own = {name for name in record.trained_tensors if loaded.blueprint.belongs_to(name, part)}
    if own - filled:
        raise CheckpointError(f"the checkpoint holds {min(own - filled)}, which {part.name} does not have; is it of this run?")
    trained = loaded.parameters() if record.trained[part.name].trains_all_weights else added.get(part.name, [])
    names = stored_names([loaded])
    lost = {names[parameter] for parameter in trained} - filled
    if lost:
        raise CheckpointError(f"the checkpoint lacks {min(lost)}, which {part.name} had trained; is it of this run?")
    return loaded


def restore(
    opened: OpenedModel,
    record: RunRecord | None,
    routes: tuple[Route, Route] = U_SHAPED,
    codecs: BoundaryCodecs | None = None,
) -> ComposedCausalLM:
    """Return the whole model on the CPU, in evaluation mode, as the run left it, or the base model if ``record`` is None.

    Args:
        opened: the base model.
        record: the run; None gives the base model.
        routes: which way data pass the two cuts.
        codecs: how what crosses the cuts is sent; None sends everything as it is.

    Raises:
        FileNotFoundError: the run did not save what it trained.
        CheckpointError: a file is damaged.
    """
    bottom, trunk, top = (restore_part(opened, part, record) for part in opened.plan.parts)
    tie_parts((bottom, trunk, top), dict.fromkeys(PART_NAMES, "cpu"))
    composed: ComposedCausalLM = ComposedCausalLM(bottom, trunk, top, routes=routes, codecs=codecs).eval()
    return composed
