"""Runs of logging services end with the training run that began them."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from splitlearn.app import loggers
from splitlearn.app.loggers import ending_logged_runs


class Logger:
    """Stands for the logger of a package that need not be there."""


class LoggedRun:
    def __init__(self) -> None:
        self.exit_codes: list[int] = []

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    package = SimpleNamespace(run=None)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setattr(loggers, "WandbLogger", Logger)
    return package


def trainer(*own: object) -> Any:
    return SimpleNamespace(loggers=list(own))


def test_a_run_ends_with_the_training(wandb: SimpleNamespace) -> None:
    run = LoggedRun()
    with ending_logged_runs(trainer(Logger())):
        wandb.run = run
        assert run.exit_codes == []
    assert run.exit_codes == [0]


def test_a_run_that_fails_ends_as_failed(wandb: SimpleNamespace) -> None:
    run = LoggedRun()
    with pytest.raises(KeyboardInterrupt), ending_logged_runs(trainer(Logger())):
        wandb.run = run
        raise KeyboardInterrupt
    assert run.exit_codes == [1]


def test_runs_of_others_go_on(wandb: SimpleNamespace) -> None:
    began_before, of_another = LoggedRun(), LoggedRun()
    wandb.run = began_before
    with ending_logged_runs(trainer(Logger())):
        pass
    wandb.run = None
    with ending_logged_runs(trainer(object())):
        wandb.run = of_another
    assert began_before.exit_codes == of_another.exit_codes == []


def test_nothing_is_ended_where_the_package_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with ending_logged_runs(trainer()):
        pass
