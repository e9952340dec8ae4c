"""Rounds of several clients: after each, a client's bottom and top become the mean that somebody else has made."""

from __future__ import annotations

from collections.abc import Sized
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from splitlearn.model import SplitModel, fill_parameters, trained_parameters
from splitlearn.naming import named
from splitlearn.rounds import Ends, RoundFolder
from splitlearn.training.module import SplitCausalLM
from splitlearn.training.step_figures import num_steps_of

_ABOUT_TOKENS = (
    "what is trained has a row for each token (the embedding or the head), and how it has changed tells whoever averages which "
    "tokens this client trains with; peft=lora leaves both as they are"
)


class FederatedRounds(Callback):
    """Offers what this client has at the start and after each round, and goes on with the mean after each round.

    What is offered is all that is trained of the parts here: with LoRA the adapters alone. Optimizer states stay here.

    Args:
        folder: where the run and the app of its rounds meet.
        every: optimizer steps of a round.
        wait: for how many seconds the mean is waited for.

    Raises:
        ValueError: a setting is out of range.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, every: int, wait: float = 3600.0) -> None:
        if isinstance(every, bool) or every < 1:
            raise ValueError(f"{named('average_every')} is {every!r}; use 1 or more")
        self._folder = RoundFolder(folder)
        self._every, self._wait = every, wait
        self._last_step = -1
        self._stack = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Offer what the run begins with. Nothing is waited for: clients that take turns need each other's steps to begin.

        Raises:
            ValueError: nothing is trained of the parts here, or another run uses the folder.
        """
        if not trained_parameters(_parts_of(pl_module)):
            raise ValueError("nothing of this client's bottom and top is trained, so there is nothing to average")
        self._stack.enter_context(self._folder.held())
        print(f"this client's rounds go by {self._folder.path.resolve()}; each is of {self._every} steps", flush=True)
        if tells_tokens(pl_module):
            print(_ABOUT_TOKENS, flush=True)
        self._last_step = trainer.global_step
        self._offer(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Exchange if a round is over."""
        self._exchange_if_due(trainer, pl_module)

    def _exchange_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if step % self._every or step == self._last_step:
            return
        self._last_step = step
        own = self._offer(trainer, pl_module)
        mean = self._folder.take(own.number, self._wait)
        check_mean(own.tensors, mean, own.number)
        fill_parameters(_parts_of(pl_module), {name: torch.from_numpy(tensor) for name, tensor in mean.items()})

    def _offer(self, trainer: Trainer, pl_module: LightningModule) -> Ends:
        """Offer what is trained now, after so many whole rounds."""
        number = trainer.global_step // self._every
        rounds_left = num_steps_of(trainer) // self._every - number
        own = {name: _to_numpy(parameter) for name, parameter in trained_parameters(_parts_of(pl_module)).items()}
        ends = Ends(number, own, num_examples_of(trainer), rounds_left)
        self._folder.offer(ends)
        return ends

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the rounds."""
        self._stack.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the rounds, so that the app knows that this run has ended."""
        self._stack.close()


def check_mean(own: dict[str, np.ndarray[Any, Any]], mean: dict[str, np.ndarray[Any, Any]], number: int) -> None:
    """Refuse a mean that does not fit what was offered.

    Args:
        own: what was offered.
        mean: what has come.
        number: of the round.

    Raises:
        ValueError: a tensor is missing or too many, has another shape or numbers that are not finite.
    """
    for name in sorted(own.keys() | mean.keys()):
        shapes = [tensors[name].shape if name in tensors else None for tensors in (own, mean)]
        if shapes[0] != shapes[1]:
            here, there = ("not there" if shape is None else f"of the shape {shape}" for shape in shapes)
            raise ValueError(
                f"in the mean of round {number} the tensor {name} is {there}, and here {here}; all clients must train the same"
            )
        if not np.isfinite(mean[name]).all():
            raise ValueError(f"in the mean of round {number} the tensor {name} has numbers that are not finite")


def tells_tokens(module: LightningModule) -> bool:
    """Whether what a client's run offers has a row for each token: the embedding, the head, or adapters of one of them."""
    return any(
        parameter.requires_grad and part.config.get_text_config(decoder=True).vocab_size in parameter.shape
        for part in _parts_of(module)
        for parameter in part.parameters()
    )


def num_examples_of(trainer: Trainer) -> int:
    """Return how many training blocks a run has, by which it is weighted; 1 if its data do not say it."""
    train = (getattr(getattr(trainer, "datamodule", None), "blocks", None) or {}).get("train")
    return len(train) if isinstance(train, Sized) else 1


def _parts_of(module: LightningModule) -> list[SplitModel]:
    """Return the client's parts: a trunk is never averaged, since there is one."""
    if not isinstance(module, SplitCausalLM):
        raise TypeError(f"rounds are for a SplitCausalLM, not for {type(module).__name__}")
    return [part for part in module.parts_here if part.spec.name != "trunk"]


def _to_numpy(parameter: torch.Tensor) -> np.ndarray[Any, Any]:
    # numpy has no bfloat16.
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return parameter.detach().to("cpu", wide).numpy()
