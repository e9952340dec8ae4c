"""Attacks on what crosses the cuts, before, during and after a training that goes on as if there were none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from splitlearn.model import ComposedCausalLM
from splitlearn.naming import named
from splitlearn.redaction import reason_of
from splitlearn.training.callbacks.undisturbed import undisturbed
from splitlearn.training.module import SplitCausalLM

# Runs attacks on a model and returns plain values: ``headline`` and ``attacks``, as in a run's summary.
AttackSuite = Callable[[ComposedCausalLM], Mapping[str, Any]]


class Attacks(Callback):
    """Attacks what crosses the cuts, and changes nothing of the training.

    Random numbers, modes, traffic, memory peaks and seconds of the run are what they are without it. An attack that fails is
    noted with its reason, and training goes on.

    Metrics, of the best attack: ``attack/token_recovery`` and ``attack/rouge_l``, under the step that was attacked.

    Args:
        before: attack before the first step.
        after: attack after the last step.
        every_n_epochs: attack after every so many epochs; None does not.

    Attributes:
        suite: runs the attacks; None attacks nothing.
        waits_for_best: leave the attack after training to whoever puts the best state into the module and then calls `attack`.
        results: what attacks recovered, in the order in which they were run, each with ``moment`` (``"before"``, ``"epoch"`` or
            ``"after"``), ``step``, ``seconds``, and what the suite returned: ``headline`` and ``attacks``. Or with a ``reason``
            instead of these.

    Raises:
        ValueError: ``every_n_epochs`` is no whole number of at least 1.
    """

    def __init__(self, *, before: bool = True, after: bool = True, every_n_epochs: int | None = None) -> None:
        if every_n_epochs is not None and (type(every_n_epochs) is not int or every_n_epochs < 1):
            raise ValueError(f"{named('every_n_epochs')} is {every_n_epochs!r}; give a whole number of epochs, or null")
        self.suite: AttackSuite | None = None
        self.waits_for_best = False
        self.before, self.after, self.every_n_epochs = before, after, every_n_epochs
        self.results: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far."""
        return {"results": self.results}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's results; the end of an earlier start is no end any more."""
        self.results = [dict(result) for result in state_dict["results"] if result.get("moment") != "after"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attack the model as it is before its first step; a resumed run has that behind it."""
        if self.before and trainer.global_step == 0:
            self.attack(trainer, pl_module, "before")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attack if it is time to."""
        if self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self.attack(trainer, pl_module, "epoch")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attack the trained model."""
        if self.after and not self.waits_for_best:
            self.attack(trainer, pl_module, "after")

    def attack(self, trainer: Trainer, module: LightningModule, moment: str) -> None:
        """Attack a model as it is now, and keep what comes of it.

        Args:
            trainer: the run's trainer, between two steps.
            module: what is trained.
            moment: what the result is called: ``"before"``, ``"epoch"`` or ``"after"``.

        Raises:
            TypeError: the module is not a `SplitCausalLM`, so nothing crosses a cut.
        """
        if self.suite is None:
            return
        if not isinstance(module, SplitCausalLM):
            raise TypeError(f"Attacks attacks what crosses the cuts of a SplitCausalLM, not of a {type(module).__name__}")
        began_s = time.perf_counter()
        with undisturbed(trainer, module):
            found = _run(self.suite, module.composed)
        result = {"moment": moment, "step": trainer.global_step, "seconds": time.perf_counter() - began_s, **found}
        self.results.append(result)
        headline = found.get("headline") or {}
        figures = {f"attack/{name}": headline[name] for name in ("token_recovery", "rouge_l") if headline.get(name) is not None}
        for logger in trainer.loggers if figures else ():
            logger.log_metrics(figures, step=trainer.global_step)


def _run(suite: AttackSuite, composed: ComposedCausalLM) -> dict[str, Any]:
    try:
        return dict(suite(composed))
    except Exception as error:
        # Whatever fails in an attack, memory included, must not end the training that it watches.
        reason = reason_of(error)
        print(f"the attacks were not run: {reason}")
        return {"reason": reason}
