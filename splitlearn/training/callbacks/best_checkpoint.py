"""The best states of a run in files, and those that are kept whatever their loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from splitlearn.naming import named
from splitlearn.training.callbacks.evaluation import will_validate


class BestCheckpoint(ModelCheckpoint):
    """Keeps the states with the lowest held-out loss, and one after every so many steps, each under the number of its step.

    A state is written right after the validation that measured it, wherever in an epoch that is. A run that goes on from an
    earlier state writes the same names again.

    Args:
        dirpath: the folder.
        filename: what the files are called, as `ModelCheckpoint` takes it.
        monitor: the figure that decides which are the best.
        mode: ``"min"`` or ``"max"``: which of its values are the best.
        save_top_k: how many of the best are kept; -1 keeps one for each validation, 0 none.
        keep_every_n_steps: also keep the state after every so many optimizer steps, for good; None does not.
        **settings: further ones of `ModelCheckpoint`.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        dirpath: str | Path,
        filename: str = "step_{step:06d}",
        monitor: str = "val_loss",
        mode: str = "min",
        save_top_k: int = 1,
        keep_every_n_steps: int | None = None,
        **settings: Any,
    ) -> None:
        if type(save_top_k) is not int or save_top_k < -1:
            raise ValueError(f"{named('save_top_k')} is {save_top_k!r}; give a whole number, 0 for none or -1 for all")
        if keep_every_n_steps is not None and (type(keep_every_n_steps) is not int or keep_every_n_steps < 1):
            raise ValueError(
                f"{named('keep_every_n_steps')} is {keep_every_n_steps!r}; give a whole number of optimizer steps, or null"
            )
        fixed = {"auto_insert_metric_name": False, "enable_version_counter": False, "save_on_train_epoch_end": False}
        super().__init__(dirpath, filename, monitor, mode=mode, save_top_k=save_top_k, **{**fixed, **settings})
        self._keep_every_n_steps = keep_every_n_steps
        self._kept: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        """Return `ModelCheckpoint`'s state, and which files are kept for good."""
        return super().state_dict() | {"kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from it, also where the folder was moved; of a run that goes on in another folder, the best counts anew."""
        paths = [*state_dict["best_k_models"], *state_dict.get("kept", [])]
        if not all(Path(self._here(path)).is_file() for path in paths):
            return
        moved = {name: self._here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath})
        self._kept = [self._here(path) for path in state_dict.get("kept", [])]

    def _here(self, path: str) -> str:
        return str(Path(self.dirpath or "") / Path(path).name) if path else path

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep this step's state if it is one of those; a validation that follows comes first."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if not will_validate(trainer):
            self._keep(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the state if it is one of the best, or one to be kept."""
        super().on_validation_end(trainer, pl_module)
        self._keep(trainer)

    def _keep(self, trainer: Trainer) -> None:
        every, step = self._keep_every_n_steps, trainer.global_step
        if every is None or step == 0 or step % every or trainer.fit_loop.epoch_loop._should_accumulate():
            return
        path = self.format_checkpoint_name(self._monitor_candidates(trainer))
        if path in self._kept and self._last_global_step_saved == step:
            return
        self._kept = [*(kept for kept in self._kept if kept != path), path]
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_checkpoint(trainer, path)

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        return previous not in self._kept and super()._should_remove_checkpoint(trainer, previous, current)
