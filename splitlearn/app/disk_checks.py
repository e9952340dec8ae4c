"""Whether a run will be able to write what it trains, found out before weights are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from splitlearn.cut import PartTraining
from splitlearn.files import check_room, check_writable
from splitlearn.loading import OpenedModel, dtype_in_full
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import LAST

# A checkpoint holds each trained weight, and the two averages that AdamW keeps in its dtype.
_TENSORS_A_WEIGHT = 3


def check_disk(opened: OpenedModel, module: SplitCausalLM, trainer: Trainer, run_folder: Path, saves_parts: bool) -> None:
    """Refuse a run whose folders cannot be written, or whose disk has no room for one checkpoint beside the parts.

    Tensors of adapters are not counted; they are small beside weights.

    Args:
        opened: the model, cut.
        module: how it is trained; its parts are not loaded yet.
        trainer: the run's trainer, whose callbacks say where checkpoints are written.
        run_folder: the run's folder.
        saves_parts: whether parts are saved in the end.

    Raises:
        WriteError: a folder cannot be written, or there is no room.
    """
    callbacks = [] if getattr(trainer, "fast_dev_run", False) else trainer.checkpoint_callbacks
    folders = {Path(callback.dirpath) for callback in callbacks if isinstance(callback, ModelCheckpoint) and callback.dirpath}
    written = [run_folder / "parts"] if saves_parts else []
    written += [run_folder / "adapters"] if module.adapters.method is not None else []
    for folder in (*sorted(folders), *written):
        check_writable(folder)
    trained = _bytes_trained(opened, module.trained)
    checkpoint, needed = _TENSORS_A_WEIGHT * trained, trained if saves_parts else 0
    if folders:
        check_room(min(folders) / LAST, checkpoint - _bytes_in(folders))
        # Where checkpoints go elsewhere, their disk may be another one.
        needed += checkpoint if run_folder in min(folders).parents else 0
    check_room(run_folder / "parts", needed - _bytes_in({*folders, *written}), in_one_file=False)


def _bytes_in(folders: Iterable[Path]) -> int:
    """Return how much files hold that the run may replace."""
    return sum(path.stat().st_size for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file())


def check_disk_of_server(opened: OpenedModel, trained: Mapping[str, PartTraining], parts: Sequence[str], file: Path) -> None:
    """Refuse a file whose folder cannot be written, or whose disk has no room for the state of a server's parts.

    Args:
        opened: the model, cut.
        trained: what of each part is trained, by the part's name.
        parts: the names of the server's parts.
        file: where the state is to be kept.

    Raises:
        WriteError: the folder cannot be written, or there is no room.
    """
    check_writable(file.parent)
    # It is written beside what is there before that goes.
    of_parts = {name: what for name, what in trained.items() if name in parts}
    check_room(file, _TENSORS_A_WEIGHT * _bytes_trained(opened, of_parts))


def _bytes_trained(opened: OpenedModel, trained: Mapping[str, PartTraining]) -> int:
    """Return the bytes of the parameters of parts that are trained in full; a tied one counts once."""
    parts = [part for part in opened.plan.parts if part.name in trained and trained[part.name].trains_all_weights]
    blueprint, dtype = opened.blueprint, dtype_in_full(opened.request.dtype, opened.dtype)
    weights = {
        name: weight
        for name, weight in blueprint.meta_model.named_parameters()
        if any(blueprint.belongs_to(name, part) for part in parts)
    }
    return dtype.itemsize * sum(weight.numel() for name, weight in weights.items() if blueprint.ties.get(name) not in weights)
