"""The tensors of one part of a trained model, under the names of an ordinary checkpoint."""

from __future__ import annotations

import torch

from splitlearn.adapters import add_adapters, load_adapters
from splitlearn.adapters.parts import adapted_modules
from splitlearn.cut import PartSpec
from splitlearn.export.run_record import RunRecord
from splitlearn.model import SplitModel
from splitlearn.model.part_loading import PartLoader

Tensors = dict[str, torch.Tensor]


def part_tensors(loader: PartLoader, part: PartSpec, record: RunRecord) -> Tensors:
    """Return the tensors of one part; what was not trained is the base checkpoint's, mapped, under its names.

    Args:
        loader: the opened base checkpoint.
        part: the part.
        record: the run.

    Raises:
        FileNotFoundError: the run did not save the part.
        CheckpointError: a file is damaged.
    """
    what = record.trained[part.name]
    if part.start == part.end and part.name == "trunk":
        return {}
    if what == "frozen":
        return _base_tensors(loader, part)
    if what == "adapters":
        return _merged_tensors(loader, part, record)
    path = record.saved_part(part.name)
    if path is None:
        raise FileNotFoundError(f"{record.folder} has no parts/{part.name}.pt; train with save_parts=true to export it")
    return _own_tensors(SplitModel.load(path))


def _base_tensors(loader: PartLoader, part: PartSpec) -> Tensors:
    reading = loader.reading(part)
    shards = loader.open(reading)
    try:
        return {name: shards[loader.source.weight_map[name]].read(name) for name in dict.fromkeys(reading.sources.values())}
    finally:
        loader.close(part)


def _merged_tensors(loader: PartLoader, part: PartSpec, record: RunRecord) -> Tensors:
    loaded = loader.load(loader.reading(part), lambda name, size_bytes: None, {})
    loader.close(part)
    add_adapters([loaded], record.adapters)
    load_adapters([loaded], record.folder / "adapters")
    for layer in adapted_modules(loaded).values():
        # Weights are mapped privately: merging writes to copies of the pages, never to the checkpoint.
        layer.merge()
    return _own_tensors(loaded)


def _own_tensors(part: SplitModel) -> Tensors:
    """Return a part's tensors that a checkpoint holds, with adapters left out and their layers' names as they were."""
    stored = set(part.blueprint.meta_model.state_dict())
    renamed = {name.replace(".base_layer.", "."): each for name, each in part.named_tensors().items()}
    return {name: each for name, each in renamed.items() if name in stored}
