"""Loading parts that will be trained."""

from __future__ import annotations

from collections.abc import Mapping

from splitlearn.cut import PartTraining, Placement
from splitlearn.loading import LoadedParts, OpenedModel
from splitlearn.memory import MemoryTracker
from splitlearn.training.refusals import parts_in_float32, refuse_untrainable


def load_for_training(
    opened: OpenedModel,
    trained: Mapping[str, PartTraining],
    placement: Placement,
    *,
    low_memory: bool = True,
    verbose: bool = False,
    tracker: MemoryTracker | None = None,
    shows_bars: bool = True,
) -> LoadedParts:
    """Refuse what cannot be trained, then load the parts in the dtype in which they are trained.

    Args:
        opened: the model, cut; its parts are loaded, which may be some of all.
        trained: which tensors of each part are trained.
        placement: who holds which part, and on which device.
        low_memory: load part by part rather than the whole model first.
        verbose: print what is loaded and what it costs.
        tracker: records memory after each part; None uses one of its own.
        shows_bars: whether ``verbose`` shows progress bars too.

    Returns:
        The parts and what loading them cost.

    Raises:
        ValueError: one side of a tied head is frozen and the other trained, or the checkpoint, cut or devices are unusable.
        FileNotFoundError: the checkpoint is not there.
    """
    refuse_untrainable(opened, trained, placement)
    wide = parts_in_float32(trained, opened.request.dtype)
    return opened.revise(in_float32=wide).load(
        placement=placement,
        trained=[name for name, what in trained.items() if what.trains_all_weights],
        low_memory=low_memory,
        verbose=verbose,
        tracker=tracker,
        shows_bars=shows_bars,
    )
