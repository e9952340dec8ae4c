"""The parts of a finished run, as they were at its end."""

from __future__ import annotations

from splitlearn.adapters import add_adapters, load_adapters
from splitlearn.cut import PART_NAMES, PartSpec, SplitPlan
from splitlearn.export.run_record import RunRecord
from splitlearn.model import ComposedCausalLM, SplitModel, tie_parts
from splitlearn.model.part_loading import PartLoader


def restore_part(loader: PartLoader, part: PartSpec, record: RunRecord | None) -> SplitModel:
    """Return one part on the CPU as the run left it, with its adapters beside the base weights.

    Args:
        loader: the opened base checkpoint.
        part: the part.
        record: the run; None gives the base model's part.

    Raises:
        FileNotFoundError: the run did not save the part.
        CheckpointError: a file is damaged.
    """
    what = "frozen" if record is None else record.trained[part.name]
    if record is not None and what not in ("frozen", "adapters"):
        path = record.saved_part(part.name)
        if path is None:
            raise FileNotFoundError(f"{record.folder} has no parts/{part.name}.pt; train with save_parts=true to use it later")
        return SplitModel.load(path)
    loaded = loader.load(loader.reading(part), lambda name, size_bytes: None, {})
    loader.close(part)
    if record is not None and what == "adapters":
        add_adapters([loaded], record.adapters)
        load_adapters([loaded], record.folder / "adapters")
    return loaded


def restore(loader: PartLoader, plan: SplitPlan, record: RunRecord | None) -> ComposedCausalLM:
    """Return the whole model on the CPU, in evaluation mode, as the run left it, or the base model if ``record`` is None.

    Raises:
        FileNotFoundError: the run did not save what it trained.
        CheckpointError: a file is damaged.
    """
    bottom, trunk, top = (restore_part(loader, part, record) for part in plan.parts)
    tie_parts((bottom, trunk, top), dict.fromkeys(PART_NAMES, "cpu"))
    composed: ComposedCausalLM = ComposedCausalLM(bottom, trunk, top).eval()
    return composed
