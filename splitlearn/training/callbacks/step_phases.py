"""The seconds of training steps by phase, as metrics and for the run's summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from splitlearn.training.module import SplitCausalLM
from splitlearn.training.part_owner import PartElsewhere
from splitlearn.training.step_clock import BETWEEN, OF_OTHERS, StepClock


class StepPhases(Callback):
    """Measures the phases of training steps, from the actions that Lightning tells its profiler and the stages of the run.

    Phases: ``data`` (waiting for the batch and moving it), ``bottom`` (with the fetching of kept activations), ``cut_1``,
    ``trunk``, ``cut_2``, ``top`` (with the loss), ``backward`` (of all parts and over both cuts), ``optimizer`` (zeroing,
    scaling and clipping gradients, and AdamW's step) and ``step``, the whole. Validation, checkpoints and other callbacks
    belong to no step. Accumulated batches add up. The first step of each start is left out.

    Where other parties hold parts there are two figures more. ``waiting_for_servers`` lies within these phases. ``at_servers``
    is what servers have computed, also while this process went on: an answer that comes after the step counts for the next.

    Metrics: ``phases/data_s`` and so on, in seconds, of the steps that are logged; at the end ``phases/data_median_s``,
    ``_p95_s`` and ``_p99_s``.

    Args:
        synchronize: wait for the GPUs at the end of each phase. Without it a run with a part on a GPU has only ``data`` and
            ``step``, since the GPU works on a phase while the CPU is in the next.
    """

    def __init__(self, *, synchronize: bool = False) -> None:
        self._synchronize = synchronize
        self._clock = StepClock()
        self._restored: dict[str, Any] | None = None
        self._profiler: Profiler | None = None
        self._gpus: list[torch.device] = []
        self._last_step = 0
        # One part of each other party.
        self._elsewhere: list[PartElsewhere] = []
        self._waited_s = self._computed_s = 0.0

    def summary(self) -> dict[str, Any] | None:
        """Return ``num_steps``, and for each phase ``median_s``, ``p95_s`` and ``p99_s``; None before the second step."""
        return self._clock.summary()

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds of the steps so far."""
        return self._clock.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the seconds of a checkpoint's steps for when training begins."""
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen.

        Raises:
            TypeError: the module is not a `SplitCausalLM`, so it has no parts to tell apart.
        """
        if not isinstance(pl_module, SplitCausalLM):
            raise TypeError(f"StepPhases measures the parts of a SplitCausalLM, not of a {type(pl_module).__name__}")
        self._gpus = sorted({part.device for part in pl_module.parts_here if part.device.type == "cuda"}, key=str)
        elsewhere = [cast(PartElsewhere, part) for part in pl_module.composed.parts if part.is_elsewhere]
        self._elsewhere = list({id(part.owner): part for part in elsewhere}.values())
        beside = OF_OTHERS if elsewhere else ()
        self._clock = StepClock(self._wait, self._synchronize, beside) if self._gpus else StepClock(beside=beside)
        self._computed_s = self._seconds_elsewhere()[1]
        if self._restored is not None:
            self._clock.load_state_dict(self._restored)
            self._restored = None
        self._last_step = trainer.global_step
        pl_module.composed.stage_observers.append(self._clock.enter)
        # Lightning sets this attribute from outside the class, where type checkers do not look.
        self._profiler = trainer.profiler  # type: ignore[attr-defined]
        trainer.profiler = _PhaseProfiler(self._profiler, self._clock, *_actions(trainer, pl_module))  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to count how long this batch waits for other parties."""
        self._waited_s = self._seconds_elsewhere()[0]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what others have computed for steps so far."""
        self._note_computing()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out what others have computed since."""
        self._computed_s = self._seconds_elsewhere()[1]

    def _note_computing(self) -> None:
        computed_s = self._seconds_elsewhere()[1]
        if self._elsewhere:
            self._clock.note(OF_OTHERS[1], computed_s - self._computed_s)
        self._computed_s = computed_s

    def _seconds_elsewhere(self) -> tuple[float, float]:
        """Return how long other parties were waited for so far, and how long they have computed."""
        return sum(part.waited_seconds for part in self._elsewhere), sum(part.computed_seconds for part in self._elsewhere)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the step if this batch ended one, and log it."""
        if self._elsewhere:
            self._clock.note(OF_OTHERS[0], self._seconds_elsewhere()[0] - self._waited_s)
        self._note_computing()
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        seconds = self._clock.end_step()
        # As `is_logged` says before the step.
        every = getattr(trainer, "log_every_n_steps", 0)
        if seconds and every > 0 and trainer.global_step % every == 0:
            pl_module.log_dict({f"phases/{name}_s": value for name, value in seconds.items()}, batch_size=1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop listening, and give loggers the figures of all steps."""
        self._stop(trainer, pl_module)
        summary = self.summary()
        if summary is not None:
            metrics = {
                f"phases/{phase}_{name}": value
                for phase, figures in summary.items()
                if isinstance(figures, Mapping)
                for name, value in figures.items()
            }
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening; training does not come to its end after an error."""
        self._stop(trainer, pl_module)

    def _stop(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._profiler is not None and isinstance(pl_module, SplitCausalLM):
            trainer.profiler, self._profiler = self._profiler, None  # type: ignore[attr-defined]
            pl_module.composed.stage_observers.remove(self._clock.enter)

    def _wait(self) -> None:
        for device in self._gpus:
            torch.cuda.synchronize(device)


class _PhaseProfiler(Profiler):
    """Tells a clock of Lightning's actions, and hands them on to the profiler that the user chose.

    Args:
        inner: the Trainer's own profiler.
        clock: what is told.
        begins: by the action's name the phase that begins as it starts.
        ends: by the action's name the phase that begins as it stops.
    """

    def __init__(
        self, inner: Profiler, clock: StepClock, begins: Mapping[str, str | None], ends: Mapping[str, str | None]
    ) -> None:
        super().__init__(inner.dirpath, inner.filename)
        self._inner, self._clock, self._begins, self._ends = inner, clock, begins, ends

    def start(self, action_name: str) -> None:
        """Begin an action."""
        self._inner.start(action_name)
        if action_name in self._begins:
            self._clock.enter(self._begins[action_name])

    def stop(self, action_name: str) -> None:
        """End an action."""
        if action_name in self._ends:
            self._clock.enter(self._ends[action_name])
        self._inner.stop(action_name)


def _actions(trainer: Trainer, module: LightningModule) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Return which phase begins as Lightning starts an action, and which as it stops one."""
    fetch = f"[{type(trainer.fit_loop.epoch_loop).__name__}].train_dataloader_next"
    strategy = f"[Strategy]{type(trainer.strategy).__name__}"
    zero_gradients = f"[LightningModule]{type(module).__name__}.optimizer_zero_grad"
    begins = {
        fetch: "data",
        f"{strategy}.batch_to_device": "data",
        "run_training_batch": BETWEEN,
        f"{strategy}.training_step": "bottom",
        zero_gradients: "optimizer",
        f"{strategy}.backward": "backward",
    }
    ends = {
        fetch: None,
        f"{strategy}.batch_to_device": None,
        f"{strategy}.training_step": BETWEEN,
        zero_gradients: BETWEEN,
        f"{strategy}.backward": "optimizer",
        "run_training_batch": None,
    }
    return {**begins}, {**ends}
