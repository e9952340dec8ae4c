"""The memory that each part takes in training, measured in some of the steps."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from splitlearn.memory import GIB
from splitlearn.training.module import SplitCausalLM
from splitlearn.training.part_memory import bytes_by_party, training_bytes
from splitlearn.training.saved_activations import SavedActivations

_METRICS = {"gradient_bytes": "gradients", "optimizer_bytes": "optimizer", "activation_bytes": "activations"}


class PartBytes(Callback):
    """Measures each part's parameters, gradients, optimizer state, and activations that are kept for the backward pass.

    It measures in the first batch of each epoch and in each batch that is larger, or whose rows are longer, than all before;
    the largest figures of the run count. Parts that another party holds are left out.

    Metrics, each in GiB (2**30 bytes) and the largest so far, at each epoch's end:
        memory/client_gib and so on: all of these figures of all parts that the party holds.
        memory/bottom_gradients_gib, memory/bottom_optimizer_gib, memory/bottom_activations_gib, and of trunk and top.
    """

    def __init__(self) -> None:
        self._bytes: dict[str, dict[str, int]] = {}
        # Rows and tokens of the batch that kept most.
        self._batch_shape: tuple[int, int] | None = None
        self._most_positions = self._longest_rows = 0
        self._begins_epoch = self._awaits_step = False
        self._saved: SavedActivations | None = None
        self._shape = (0, 0)
        self._last_step = 0

    @property
    def parts(self) -> dict[str, dict[str, int]]:
        """For each part ``parameter_bytes``, ``gradient_bytes``, ``optimizer_bytes`` and ``activation_bytes``; empty before
        the first step.
        """
        return {part: dict(figures) for part, figures in self._bytes.items()}

    @property
    def batch_shape(self) -> tuple[int, int] | None:
        """Rows (B) and tokens (T) of the batch that kept most for the backward pass; None before the first."""
        return self._batch_shape

    def state_dict(self) -> dict[str, Any]:
        """Return the largest figures so far."""
        return {"parts": self.parts, "batch_shape": None if self._batch_shape is None else list(self._batch_shape)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's figures."""
        self._bytes = {part: dict(figures) for part, figures in state_dict["parts"].items()}
        shape = state_dict["batch_shape"]
        self._batch_shape = None if shape is None else (shape[0], shape[1])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the model tell which part runs.

        Raises:
            TypeError: the module is not a `SplitCausalLM`, so it has no parts to measure.
        """
        if not isinstance(pl_module, SplitCausalLM):
            raise TypeError(f"PartBytes measures the parts of a SplitCausalLM, not of a {type(pl_module).__name__}")
        self._saved = SavedActivations(pl_module.parts_here)
        pl_module.composed.stage_observers.append(self._saved.enter)
        self._last_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure in the epoch's first batch."""
        self._begins_epoch = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Decide whether to measure in this batch."""
        rows, tokens = batch["input_ids"].shape
        is_larger = rows * tokens > self._most_positions or tokens > self._longest_rows
        if self._saved is not None and (self._begins_epoch or is_larger):
            self._saved.arm()
            self._shape, self._begins_epoch, self._awaits_step = (rows, tokens), False, True
        self._most_positions = max(self._most_positions, rows * tokens)
        self._longest_rows = max(self._longest_rows, tokens)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Take what the forward pass has kept."""
        kept = None if self._saved is None else self._saved.stop()
        if kept is None:
            return
        before = sum(figures.get("activation_bytes", 0) for figures in self._bytes.values())
        if self._batch_shape is None or sum(kept.values()) > before:
            self._batch_shape = self._shape
        self._raise({part: {"activation_bytes": size} for part, size in kept.items()})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Measure gradients: they are gone once the step is taken."""
        if self._awaits_step and isinstance(pl_module, SplitCausalLM):
            self._raise(training_bytes(pl_module.parts_here, optimizer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure optimizer state once the step is taken."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        if self._awaits_step and isinstance(pl_module, SplitCausalLM):
            self._awaits_step = False
            self._raise(training_bytes(pl_module.parts_here, trainer.optimizers[0]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the largest figures so far."""
        if not self._bytes or not isinstance(pl_module, SplitCausalLM):
            return
        sizes = {f"{party}_gib": size for party, size in bytes_by_party(self._bytes, pl_module.placement).items()}
        for part, figures in self._bytes.items():
            sizes |= {f"{part}_{word}_gib": figures[name] for name, word in _METRICS.items() if name in figures}
        pl_module.log_dict({f"memory/{name}": size / GIB for name, size in sizes.items()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop listening."""
        self._stop(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening; autograd's hooks would otherwise stay after an error in the forward pass."""
        self._stop(pl_module)

    def _stop(self, pl_module: LightningModule) -> None:
        if self._saved is not None and isinstance(pl_module, SplitCausalLM):
            self._saved.stop()
            pl_module.composed.stage_observers.remove(self._saved.enter)
            self._saved = None

    def _raise(self, measured: dict[str, dict[str, int]]) -> None:
        for part, figures in measured.items():
            known = self._bytes.setdefault(part, {})
            for name, size in figures.items():
                known[name] = max(known.get(name, 0), size)
