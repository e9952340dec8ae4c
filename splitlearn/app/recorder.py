"""What a run writes down of itself: its configuration when it begins, its summary when it ends, however it ends."""

from __future__ import annotations

import math
import platform
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from omegaconf import DictConfig, OmegaConf

from splitlearn.app.checkpoints import FinishedRunError, find_best
from splitlearn.app.configuration import plain
from splitlearn.app.run_folder import abandoned_searches, foreign_file, holds_run, own_files, remove, save_hydra_files
from splitlearn.app.simulating import averages
from splitlearn.app.sweeping import TRACEBACK_FILE, keep_traceback
from splitlearn.cut import CutError, describe_threats
from splitlearn.data import BlockDataModule, base_tokenizer_digest
from splitlearn.files import WriteError, remove_leftovers, write_text
from splitlearn.interruption import interrupting_signal
from splitlearn.redaction import without_queries
from splitlearn.runs import CONFIG_FILE, RUNNING, RunSummary, new_run_id, print_summary, write_summary
from splitlearn.training import SplitCausalLM, part_memory
from splitlearn.training.callbacks import LAST, DivergedError, Traffic, find_callback, privacy_of, tells_tokens


class Recorder:
    """Writes a run's ``config.yaml`` and ``summary.json``.

    What an earlier run left in the folder stays as it is until this one has begun.

    Args:
        cfg: the run's configuration.
        folder: its folder.

    Attributes:
        run_id: of this start of the run.
        has_begun: whether all that could be refused has been checked, so that the folder is this run's.
    """

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        self.folder = folder
        self._cfg = cfg
        self.has_begun = False
        points = {f"split_{point}": plain(cfg.split.get(point)) for point in ("point_1", "point_2")}
        model, tags = cfg.model.name_or_path, plain(cfg.tags)
        self.run_id = new_run_id()
        self._summary = RunSummary(run_id=self.run_id, model=model, folder=str(folder.resolve()), tags=tags, **points)
        self.note(seed=cfg.seed)
        self._is_taken = holds_run(folder) or foreign_file(folder) is not None
        self._trainer: Trainer | None = None
        self._is_complete = False

    def note(self, **values: Any) -> None:
        """Note what has become known of the run, under the names of `RunSummary`'s attributes."""
        self._summary = replace(self._summary, **values)

    def begin(self, cfg: DictConfig, trainer: Trainer, replaces: bool) -> None:
        """Make the folder this run's; its record says so first, so that no file of an earlier run is taken for this one's.

        Args:
            cfg: the configuration to write there.
            trainer: the run's trainer.
            replaces: whether what an earlier run left is removed first.
        """
        record = write_summary(self.folder, replace(self._summary, status=RUNNING))
        self.has_begun, self._trainer = True, trainer
        if replaces:
            remove([path for path in own_files(self.folder) if path != record])
        remove([*abandoned_searches(self.folder), self.folder / TRACEBACK_FILE])
        remove_leftovers(self.folder / "checkpoints")
        save_hydra_files(self.folder, cfg)
        write_text(self.folder / CONFIG_FILE, OmegaConf.to_yaml(cfg, resolve=True))

    def end_badly(self, error: BaseException) -> None:
        """Write why the run ended before it was done, unless the folder is still an earlier run's."""
        if isinstance(error, FinishedRunError) or self._is_complete or (self._is_taken and not self.has_begun):
            return
        status, reason = "failed", without_queries(str(error)) or type(error).__name__
        if isinstance(error, CutError):
            status = "refused"
        elif isinstance(error, DivergedError):
            status = "diverged"
        elif _was_stopped(error):
            status, reason = "interrupted", self._how_it_was_stopped()
        if self._trainer is not None:
            # With too little memory the best checkpoint cannot be read either.
            with suppress(ValueError, OSError, MemoryError):
                self.note(best=find_best(self._trainer))
        # On a full disk the record may not be written either; the error that is raised says so.
        with suppress(WriteError):
            if status in ("failed", "diverged"):
                keep_traceback(self.folder, error)
            if self._trainer is None:
                save_hydra_files(self.folder, self._cfg)
            write_summary(self.folder, replace(self._summary, status=status, reason=reason))

    def _how_it_was_stopped(self) -> str:
        if (self.folder / "checkpoints" / LAST).is_file():
            return "the run was stopped before it was done; ckpt_path=last goes on from its checkpoint"
        return "the run was stopped before there was a checkpoint; start it again"

    def complete(
        self,
        cfg: DictConfig,
        metrics: dict[str, Any],
        module: SplitCausalLM,
        datamodule: LightningDataModule,
        trainer: Trainer,
        saved: dict[str, str],
    ) -> None:
        """Write and print the summary of a run that is done.

        Args:
            cfg: the run's configuration.
            metrics: its figures.
            module: the trained module.
            datamodule: the data.
            trainer: the run's trainer.
            saved: the folders of parts and adapters, by kind.
        """
        status, reason, after = "completed", None, metrics["val_loss_after"]
        if after is not None and not math.isfinite(after):
            status, reason = "diverged", "the held-out loss is no longer a finite number"
        if isinstance(datamodule, BlockDataModule):
            # A stream's rows are read during training, so only now is it known which were left out.
            self.note(batch_size=datamodule.batch_size, rows=datamodule.counts)
        else:
            self.note(batch_size=cfg.data.get("batch_size"))
        traffic = find_callback(trainer, Traffic)
        self.note(
            status=status,
            reason=reason,
            metrics=metrics,
            traffic=None if traffic is None else traffic.summary(),
            privacy=privacy_of(module),
            defence=module.defences.measured() or None,
            best=find_best(trainer),
            stopped_early=_why_stopped_early(trainer),
            parts=[part.to_dict() for part in part_memory(module.parts)],
            loading=[asdict(part.receipt) for part in module.parts if part.receipt is not None],
            trained={name: what.value for name, what in module.trained.items()},
            # A part whose modules get no adapters turns out to be frozen once it is loaded.
            threat_model=describe_threats(module.placement, module.trained, averages(cfg), tells_tokens(module)),
            learning_rate=module.learning_rate,
            saved_parts=saved.get("parts"),
            adapters=saved.get("adapters"),
            versions=_versions(),
            base=self._describe_base(module),
        )
        write_summary(self.folder, self._summary)
        self._is_complete = True
        print_summary(self._summary)

    def _describe_base(self, module: SplitCausalLM) -> dict[str, Any]:
        """Return what export and generate compare the base checkpoint with."""
        return module.base | {"tokenizer": base_tokenizer_digest(module.hparams["model_name_or_path"], self._summary.commit)}


def _was_stopped(error: BaseException) -> bool:
    """Return whether a signal ended the run: torch and Python raise errors of their own about what it interrupted.

    Some of these lead back to the one that the signal raised; where none does, the command has noted the signal.
    """
    if interrupting_signal() is not None:
        return True
    link: BaseException | None = error
    while link is not None and isinstance(link, Exception):
        link = link.__context__
    return link is not None


def _why_stopped_early(trainer: Trainer) -> str | None:
    for callback in trainer.early_stopping_callbacks:
        if callback.stopped_epoch:
            return f"{callback.monitor} no longer improved in epoch {callback.stopped_epoch + 1}"
    return None


def _versions() -> dict[str, str]:
    names = ("splitlearn", "torch", "lightning", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
