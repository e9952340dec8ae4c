"""A search: Optuna chooses the settings of each run by the figures of those before, which runs of several processes may be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from splitlearn.cli.errors import refuse
from splitlearn.cli.sweeps.lines import opening_line
from splitlearn.cli.sweeps.space import Space, read_space
from splitlearn.report import COLUMNS, read_runs
from splitlearn.runs import RUNNING, Holder
from splitlearn.settings import key_of

JOURNAL_FILE = "search.journal"
STUDY = "splitlearn"
SAMPLERS = ("tpe", "nsga2", "random")
_DIRECTIONS = ("minimize", "maximize")
# Attributes of a study and of its trials.
_OBJECTIVES, _HOLDER = "objectives", "holder"


def search(
    config: DictConfig,
    loader: ConfigLoader,
    launcher: Launcher,
    arguments: Sequence[str],
    n_trials: int,
    objectives: Mapping[str, str],
    sampler_name: str,
    storage: str | None,
) -> None:
    """Run trials until the study has as many as it is to have, and print those that no other is better than in everything.

    Args:
        config: the sweep's configuration.
        loader: Hydra's, which knows the names of choices.
        launcher: runs the trials, as many at a time as its ``n_jobs`` says.
        arguments: the overrides, those that vary among them.
        n_trials: how many the study is to have.
        objectives: columns of a report, each with ``"minimize"`` or ``"maximize"``.
        sampler_name: one of `SAMPLERS`.
        storage: a database's URL; None for a file in the sweep's folder.

    Raises:
        SystemExit: a setting cannot be used, or a signal ended the search.
    """
    folder = Path(str(config.hydra.sweep.dir))
    try:
        _check(n_trials, objectives, sampler_name)
        space = read_space(arguments, loader)
        study = open_study(folder, objectives, sampler_name, storage, _seed(arguments))
    except (ValueError, OSError, ImportError, optuna.exceptions.OptunaError) as error:
        refuse(str(error))
    OmegaConf.save(config, folder / "multirun.yaml")
    print(opening_line(n_trials, folder), flush=True)
    # The launcher's own lines count the runs of one batch.
    launcher.num_jobs = n_trials  # type: ignore[attr-defined]
    n_jobs = getattr(launcher, "n_jobs", 1)
    _Search(study, space, n_trials).run(launcher, n_jobs if isinstance(n_jobs, int) and n_jobs > 0 else 1)
    print(_front(study, tuple(objectives)), flush=True)


def open_study(
    folder: Path, objectives: Mapping[str, str], sampler_name: str, storage: str | None, seed: int = 0
) -> optuna.Study:
    """Open the study of a sweep's folder, which other processes may have open too, or begin it.

    Raises:
        ValueError: it has been begun with other objectives.
        OSError: the folder cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    kept: BaseStorage | str = storage or JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE)))
    study = optuna.create_study(
        storage=kept,
        study_name=STUDY,
        directions=[StudyDirection[direction.upper()] for direction in objectives.values()],
        load_if_exists=True,
    )
    known = study.user_attrs.get(_OBJECTIVES)
    if known is None:
        study.set_user_attr(_OBJECTIVES, dict(objectives))
    elif known != dict(objectives):
        raise ValueError(
            f"hydra.sweeper.objectives is {dict(objectives)}, but the search in {storage or folder} was begun with {known}; "
            "give these, or name another folder with hydra.sweep.dir=..."
        )
    # Processes that join begin elsewhere.
    study.sampler = _sampler(sampler_name, seed + len(study.get_trials(deepcopy=False)))
    return study


def _check(n_trials: int, objectives: Mapping[str, str], sampler_name: str) -> None:
    if type(n_trials) is not int or n_trials < 1:
        raise ValueError(f"hydra.sweeper.n_trials is {n_trials!r}; give a whole number of at least 1")
    if not objectives:
        raise ValueError("hydra.sweeper.objectives is empty; give a column of a report, such as {loss: minimize}")
    for name, direction in objectives.items():
        if name not in COLUMNS or COLUMNS[name].kind == "text":
            numbers = ", ".join(column for column, known in COLUMNS.items() if known.kind != "text")
            raise ValueError(f"hydra.sweeper.objectives has {name}, which is no figure of a run; use some of {numbers}")
        if direction not in _DIRECTIONS:
            raise ValueError(f"hydra.sweeper.objectives.{name} is {direction!r}; use {' or '.join(_DIRECTIONS)}")
    if sampler_name not in SAMPLERS:
        raise ValueError(f"hydra.sweeper.sampler is {sampler_name!r}; use one of {', '.join(SAMPLERS)}")


def _sampler(name: str, seed: int) -> BaseSampler:
    if name == "tpe":
        # Trials that other processes run count as bad ones until they end, so that nobody tries the same.
        return TPESampler(seed=seed, constant_liar=True)
    return NSGAIISampler(seed=seed) if name == "nsga2" else RandomSampler(seed=seed)


def _seed(arguments: Sequence[str]) -> int:
    """Return the seed that the command line gives to all runs, or else 0."""
    values = [argument.partition("=")[2] for argument in arguments if key_of(argument) == "seed"]
    return int(values[-1]) if values and values[-1].isdecimal() else 0


@dataclass
class _Search:
    """A study whose trials are run here.

    Attributes:
        study: the study.
        space: what varies.
        n_trials: how many trials the study is to have.
        adopted: numbers of the trials that this process has gone on with and another had begun.
    """

    study: optuna.Study
    space: Space
    n_trials: int
    adopted: set[int] = field(default_factory=set)

    def run(self, launcher: Launcher, n_jobs: int) -> None:
        """Run trials, ``n_jobs`` at a time, until there are enough."""
        holder = asdict(Holder.here())
        while batch := [chosen for _ in range(n_jobs) if (chosen := self._next(holder)) is not None]:
            overrides = [self.space.overrides(parameters) for _, parameters in batch]
            results = launcher.launch(overrides, initial_job_idx=batch[0][0])
            for (number, _), result in zip(batch, results, strict=True):
                self._tell(number, result)

    def _next(self, holder: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Return a trial's number and parameters: one that a dead process left, or a new one; None if there are enough."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial.number not in self.adopted and _is_left(trial):
                self.adopted.add(trial.number)
                return trial.number, trial.params
        if sum(trial.state is not TrialState.WAITING for trial in trials) >= self.n_trials:
            return None
        asked = self.study.ask(self.space.distributions)
        asked.set_user_attr(_HOLDER, holder)
        return asked.number, asked.params

    def _tell(self, number: int, result: JobReturn) -> None:
        """Tell the study a run's figures, or that it failed. A run that was interrupted stays open, to be gone on with."""
        trial = self.study.get_trials(deepcopy=False)[number]
        if trial.state is not TrialState.RUNNING:
            # Another process went on with it.
            return
        row = _read_row(Path(str(result.working_dir)))
        status = row.get("status")
        if status == "interrupted" or (status == RUNNING and number in self.adopted):
            return
        values = [row.get(name) for name in self.study.user_attrs[_OBJECTIVES]]
        figures = [float(value) for value in values if value is not None and math.isfinite(value)]
        if status == "completed" and len(figures) == len(values):
            self.study.tell(number, figures)
        else:
            # Also where another process runs the same settings: that one's trial gets the figures.
            self.study.tell(number, state=TrialState.FAIL)


def _is_left(trial: FrozenTrial) -> bool:
    """Whether the process that ran a trial has ended before the trial did."""
    holder = trial.user_attrs.get(_HOLDER)
    return isinstance(holder, dict) and Holder(**holder).is_gone


def _read_row(folder: Path) -> dict[str, Any]:
    """Return the figures of a run; its status alone, ``"running"``, where another process has just begun it."""
    try:
        runs = read_runs(folder)
    except (ValueError, OSError):
        return {"status": RUNNING}
    return {"status": RUNNING} if runs.empty else runs.iloc[0].to_dict()


def _front(study: optuna.Study, objectives: Sequence[str]) -> str:
    """Say how many trials came to which end, and which are not beaten in everything by another."""
    trials = study.get_trials(deepcopy=False)
    words = {TrialState.COMPLETE: "completed", TrialState.FAIL: "refused or failed", TrialState.RUNNING: "under way"}
    counts = Counter(words.get(trial.state, "waiting") for trial in trials)
    lines = [f"{len(trials)} trials: {', '.join(f'{count} {word}' for word, count in sorted(counts.items()))}"]
    best = sorted(study.best_trials, key=lambda trial: trial.values) if counts["completed"] else []
    for trial in best:
        settings = " ".join(f"{name}={value}" for name, value in trial.params.items())
        figures = "  ".join(f"{name} {value:.6g}" for name, value in zip(objectives, trial.values, strict=True))
        lines.append(f"  {settings}  {figures}")
    # The same settings may have been chosen more than once.
    return "\n".join(dict.fromkeys(lines))
