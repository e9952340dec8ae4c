"""Bytes that cross the cuts while a model is trained."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from splitlearn.boundary import CallKind, TrafficMeter
from splitlearn.training.module import SplitCausalLM

_KINDS = (CallKind.TRAIN, CallKind.EVALUATE)


class Traffic(Callback):
    """Logs the bytes of each optimizer step by cut, direction and payload, and keeps the counts of a run over its resumes.

    Metrics: ``cut_1/activation_uplink_bytes``, ``cut_2/gradient_uplink_bytes`` and so on, for whatever crosses. Uplink is from
    the party that owns the data to a server, downlink back. The sizes are those of the buffers that cross; masks, positions and
    labels count as activations where they are sent.
    """

    def __init__(self) -> None:
        self._meter = TrafficMeter()
        self._restored: dict[str, Any] | None = None
        self._last_step = 0
        self._logged = self._meter.totals()

    def summary(self) -> dict[str, Any]:
        """Return the bytes of training in all and per optimizer step, by cut, and those of evaluation."""
        cuts: dict[str, Any] = {}
        per_step = self.per_step()
        for cut, totals in self._meter.totals(CallKind.TRAIN).items():
            cuts[cut] = totals | {f"{name}_per_step": mean for name, mean in per_step[cut].items()}
        return {**cuts, "evaluation": self._meter.totals(CallKind.EVALUATE)}

    def per_step(self) -> dict[str, dict[str, float]]:
        """Return the mean bytes of an optimizer step, by cut, then by payload and direction."""
        totals = self._meter.totals(CallKind.TRAIN)
        return {
            cut: {name: total / max(self._last_step, 1) for name, total in of_cut.items()} for cut, of_cut in totals.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counts so far."""
        return {kind.value: self._meter.totals(kind) for kind in _KINDS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the counts of a checkpoint for when training begins."""
        self._restored = state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the model's meter, now that its parts are loaded.

        Raises:
            TypeError: the module has none.
        """
        if not isinstance(pl_module, SplitCausalLM):
            raise TypeError(f"traffic is counted of a SplitCausalLM, not of a {type(pl_module).__name__}")
        self._meter = pl_module.composed.meter

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with what earlier starts of the run have counted, and without what a search for a batch size has."""
        self._meter.reset(CallKind.TRAIN)
        for kind, totals in (self._restored or {}).items():
            self._meter.add_totals(CallKind(kind), totals)
        self._restored = None
        self._last_step, self._logged = trainer.global_step, self._meter.totals(CallKind.TRAIN)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what has crossed since the last optimizer step, if this batch ended one."""
        if trainer.global_step == self._last_step:
            return
        totals = self._meter.totals(CallKind.TRAIN)
        crossed = {
            f"{cut}/{name}": float(count - self._logged[cut][name])
            for cut, counts in totals.items()
            for name, count in counts.items()
            if count
        }
        pl_module.log_dict(crossed, batch_size=1)
        self._last_step, self._logged = trainer.global_step, totals
