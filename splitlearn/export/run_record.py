"""What a run left behind, as far as its model can be put together again from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splitlearn.adapters import AdapterSettings
from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import PART_NAMES, PartTraining
from splitlearn.naming import naming_group
from splitlearn.runs import (
    CONFIG_FILE,
    METRICS_FORM,
    RUNNING,
    SUMMARY_FILE,
    RunSummary,
    find_holder,
    misfit,
    read_run_config,
    read_summary,
    refuse_other_run,
)

# What is read again of a run's configuration.
_FORM: dict[str, Any] = {
    "model": {"name_or_path": str, "type": str, "dtype": str, "unexpected_tensors": str, "untie": bool},
    "data": dict[str, Any],
    "peft": dict[str, Any],
    "placement": {"parties": dict[str, dict[str, Any]], "data": str, "labels": str},
    "boundary": dict[str, Any],
    "defence": dict[str, Any],
}
_DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class RunRecord:
    """One run's folder.

    Attributes:
        folder: the folder.
        config: its resolved configuration, as plain values; nothing that it names is imported.
        summary: its ``summary.json``; without a status if it was killed before it wrote one.
        checkpoint: the content of the checkpoint whose state is wanted; None for what the run ended with.
    """

    folder: Path
    config: dict[str, Any]
    summary: RunSummary
    checkpoint: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, folder: str | Path, checkpoint: Mapping[str, Any] | None = None) -> RunRecord:
        """Read a run's folder.

        Args:
            folder: the folder.
            checkpoint: the content of one of its checkpoints, for the state that the run had there.

        Raises:
            FileNotFoundError: the folder is no run's, or the run did not complete and no checkpoint is given.
            ValueError: a file of the run is damaged, or the checkpoint is of another run.
        """
        path = Path(folder).expanduser()
        config, summary = read_run_config(path), read_summary(path)
        _check_config(config, path / CONFIG_FILE)
        if checkpoint is None:
            _refuse_unfinished(path, summary)
        elif summary is not None:
            refuse_other_run(path, summary, checkpoint)
        return cls(path, config, summary or RunSummary(), checkpoint)

    @property
    def adapters(self) -> AdapterSettings:
        """The adapters that the run trained."""
        try:
            with naming_group("peft"):
                settings = AdapterSettings.from_plain(self.config.get("peft"))
        except ValueError as error:
            raise CheckpointError(f"{self.folder / CONFIG_FILE} cannot be used: {error}") from error
        return settings.without([name for name, what in self.trained.items() if not what.trains_anything])

    @property
    def split_points(self) -> tuple[int, int]:
        """First layer of the trunk, and of the top."""
        if self.checkpoint is None:
            return self._recorded("split_point_1"), self._recorded("split_point_2")
        values = self.checkpoint["hyper_parameters"]
        return values["split_point_1"], values["split_point_2"]

    @property
    def trained(self) -> dict[str, PartTraining]:
        """For each part which of its tensors were trained."""
        trained: dict[str, str] = self._recorded("trained") if self.checkpoint is None else self.checkpoint["trained"]
        # The names become names of files.
        if set(trained) != set(PART_NAMES) or not all(what in set(PartTraining) for what in trained.values()):
            raise CheckpointError(
                f"{self.folder / SUMMARY_FILE} is damaged: trained does not say for each part what was trained"
            )
        return {name: PartTraining(what) for name, what in trained.items()}

    @property
    def base(self) -> dict[str, Any]:
        """Which model the run began from, with a digest of its tokenizer; empty in runs of older releases."""
        if self.checkpoint is None:
            return dict(self.summary.base or {})
        return {**(self.checkpoint.get("base") or {}), "tokenizer": self._state("RunFigures").get("tokenizer")}

    @property
    def commit(self) -> str | None:
        """The commit of a hub's repository that the run began from."""
        commit: str | None = self.base.get("commit") or self.summary.commit
        return commit

    def part_dtype(self, name: str) -> str | None:
        """Return the dtype in which the weights of the part ``name`` were held; None in runs of older releases.

        Raises:
            CheckpointError: it is none in which weights can be held.
        """
        dtype: str | None = (self.base.get("part_dtypes") or {}).get(name)
        if dtype is not None and dtype not in _DTYPES:
            raise CheckpointError(
                f"the run in {self.folder} says that {name} was held in {dtype!r}, which is no dtype of weights"
            )
        return dtype

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures of the run up to the state that is wanted; None for what was not measured there."""
        if self.checkpoint is None:
            metrics: dict[str, Any] = self._recorded("metrics")
            return dict.fromkeys(METRICS_FORM) | metrics
        step, evaluation = self.checkpoint["global_step"], self._state("Evaluation")
        after = (evaluation.get("last_figures") or {}) if evaluation.get("last_step") == step else {}
        before = self._state("RunFigures").get("before") or {}
        names = ("val_loss", "val_perplexity")
        figures = {f"{name}_before": before.get(name) for name in names} | {f"{name}_after": after.get(name) for name in names}
        return figures | {"train_steps": step, "train_tokens": self._state("TokenThroughput").get("tokens", 0)}

    def _recorded(self, name: str) -> Any:
        """Return an attribute of the summary that the model cannot be put together without.

        Raises:
            CheckpointError: the summary lacks it.
        """
        value = getattr(self.summary, name)
        if value is None:
            raise CheckpointError(
                f"{self.folder / SUMMARY_FILE} does not say {name}, so it is of an older release; take the run's checkpoint "
                "instead, with ckpt=last or ckpt=best"
            )
        return value

    def _state(self, callback: str) -> dict[str, Any]:
        state: dict[str, Any] = (self.checkpoint or {}).get("callbacks", {}).get(callback, {})
        return state

    @property
    def defence_states(self) -> dict[str, Any]:
        """The state of the run's defences in the checkpoint, by their names; empty without a checkpoint."""
        return self._state("DefenceSteps")

    @property
    def trained_tensors(self) -> Mapping[str, torch.Tensor]:
        """What the checkpoint holds of all parts, by the unsplit model's names; empty without a checkpoint."""
        tensors: Mapping[str, torch.Tensor] = {} if self.checkpoint is None else self.checkpoint["state_dict"]
        return tensors

    def saved_part(self, name: str) -> Path | None:
        """Return the file of the part ``name``, or None if the run saved none."""
        path = self.folder / "parts" / f"{name}.pt"
        # Files of an earlier run in the same folder may lie there.
        return path if self.summary.saved_parts and path.is_file() else None


def _refuse_unfinished(folder: Path, summary: RunSummary | None) -> None:
    """Refuse the end of a run that has not ended well.

    Raises:
        FileNotFoundError: it has not.
    """
    if summary is not None and summary.is_completed:
        return
    status = None if summary is None else summary.status
    has_any = next((folder / "checkpoints").glob("*.ckpt"), None) is not None
    remedy = "take what it had reached with ckpt=last or ckpt=best" if has_any else "it has left no checkpoint"
    if status == RUNNING:
        holder = find_holder(folder)
        status = "killed before its end" if holder is None else f"still running ({holder})"
    raise FileNotFoundError(f"the run in {folder} is {status or 'unfinished'}, not completed; {remedy}")


def _check_config(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a configuration that does not say which model the run began from.

    Raises:
        CheckpointError: it does not; the message names what is missing.
    """
    model = config.get("model")
    model = model if isinstance(model, dict) else {}
    missing = [name for name in ("name_or_path", "type", "dtype") if name not in model]
    if not missing and not isinstance(model["name_or_path"], str):
        missing = ["name_or_path"]
    if missing:
        raise CheckpointError(f"{path} is damaged or no configuration of a run: its `model` does not say {missing[0]}")
    if (words := misfit(dict(config), _FORM, "config")) is not None:
        raise CheckpointError(f"{path} is damaged or no configuration of a run: {words}")
