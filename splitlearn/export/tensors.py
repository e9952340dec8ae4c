"""The tensors of one part of a trained model, under the names of an ordinary checkpoint."""

from __future__ import annotations

import torch

from splitlearn.adapters import merge_adapters
from splitlearn.checkpoint import CheckpointError, name_some
from splitlearn.cut import PartSpec, PartTraining
from splitlearn.export.restore import restore_part
from splitlearn.export.run_record import RunRecord
from splitlearn.loading import OpenedModel, PartLoader
from splitlearn.model import SplitModel

Tensors = dict[str, torch.Tensor]


def part_tensors(opened: OpenedModel, part: PartSpec, record: RunRecord, merges: bool = True) -> Tensors:
    """Return the tensors of one part; what was not trained is the base checkpoint's, mapped, under its names.

    Args:
        opened: the base model.
        part: the part.
        record: the run.
        merges: whether adapters are merged into the weights; otherwise the part's are the base checkpoint's.

    Raises:
        ValueError: the part's adapters cannot be merged.
        FileNotFoundError: the run did not save the part.
        CheckpointError: a file is damaged.
    """
    if part.start == part.end and part.name == "trunk":
        return {}
    trained = record.trained[part.name]
    if trained.keeps_base_weights and not (trained is PartTraining.ADAPTERS and merges):
        return _base_tensors(opened.loader, part)
    restored = restore_part(opened, part, record)
    merge_adapters(restored)
    return _own_tensors(restored)


def _base_tensors(loader: PartLoader, part: PartSpec) -> Tensors:
    reading = loader.reading(part)
    shards = loader.open(reading)
    try:
        # A copy of another part's tensor has a name of its own.
        names = {own if own in loader.copied else name: name for own, name in reading.sources.items()}
        return {own: shards[loader.source.weight_map[name]].read(name) for own, name in names.items()}
    finally:
        loader.close(part)


def _own_tensors(part: SplitModel) -> Tensors:
    """Return a part's tensors that a checkpoint holds."""
    wanted = {name for name in part.blueprint.meta_model.state_dict() if part.blueprint.belongs_to(name, part.spec)}
    found = {name: each for name, each in part.named_tensors().items() if name in wanted}
    lost = sorted(wanted - found.keys())
    if lost:
        raise CheckpointError(f"{part.spec.name} would be exported without {name_some(lost)}; this is a fault of splitlearn")
    return found
