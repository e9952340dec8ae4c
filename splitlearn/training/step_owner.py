"""The optimizer steps of a run, owned by the party that has the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from splitlearn.model import SplitModel, Tie, trained_parameters
from splitlearn.training.checkpoint_content import (
    gradients,
    load_gradients,
    load_trained_tensors,
    speak_names,
    trained_tensors,
)
from splitlearn.training.clipping import clip_coefficient, parameters_of, total_norm
from splitlearn.training.optimization import Optimization
from splitlearn.training.part_owner import PartOwner
from splitlearn.training.remote_steps import RemoteSteps
from splitlearn.training.tied_tensors import copy_to_borrowers, gather_gradients
from splitlearn.training.token_window import TokenWindow

_UNFINISHED = "unfinished_step"


class StepOwner:
    """Does what belongs to an optimizer step beside the optimizer's own: counts tokens, scales, clips, and orders it elsewhere.

    A step is `begin` once a run, then for each step `count` for every micro-batch, `scale_gradients`, `clip`, `order` and
    `finish`.

    Args:
        parts: the parts that are here.
        ties: ties whose ends are two tensors of these parts.
        elsewhere: who holds each other part, by the part's name.
    """

    def __init__(
        self, parts: Sequence[SplitModel], ties: Sequence[Tie] = (), elsewhere: Mapping[str, PartOwner] | None = None
    ) -> None:
        self._parts = parts
        self._ties = ties
        self._remote = RemoteSteps(elsewhere or {})
        self._window = TokenWindow()
        self._unfinished: Mapping[str, Any] | None = None
        self._is_zeroed_before = False

    @property
    def is_under_way(self) -> bool:
        """Whether micro-batches have been counted since the last step."""
        return any(self._window.counts())

    def make_optimizer(self, optimization: Optimization) -> torch.optim.Optimizer:
        """Return one AdamW over the trained parts, whose state names parameters as in the unsplit model."""
        # The borrowed end of a tie follows its owner, so the optimizer must not step it too.
        borrowed = {tie.parameters[1] for tie in self._ties}
        optimizer = optimization.make_optimizer(self._parts, borrowed, self._remote.group_settings())
        speak_names(optimizer, self._parts)
        return optimizer

    def begin(self) -> None:
        """Begin a step, or go on with the one in which a checkpoint was written."""
        # A search for a batch size, or an interrupted run, may have ended in the middle of a step.
        self._window.reset()
        self._remote.expect_norms(None)
        if self._unfinished is not None:
            self._window.reset(self._unfinished["counts"])
            load_gradients(self._parts, self._unfinished["gradients"])
            self._remote.load_gradients(self._unfinished["gradients"])
            self._unfinished = None

    def count(self, num_tokens: int, goes_back_early: bool = False) -> int:
        """Count a micro-batch's supervised tokens, and return what to divide its summed loss by (at least 1).

        Args:
            num_tokens: the tokens.
            goes_back_early: whether its gradients leave before Lightning has those of the last step forgotten.
        """
        self._is_zeroed_before = goes_back_early
        if goes_back_early and not self.is_under_way:
            self._remote.zero_gradients()
        return self._window.add(num_tokens)

    def expect_clipping(self) -> None:
        """Know that the micro-batch that was counted is the step's last, and that `clip` will need the norm of all gradients.

        So the norms of parts elsewhere come with the answer to the backward pass, without a round trip of their own.
        """
        self._remote.expect_norms(self._window.factor())

    def scale_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale all gradients to the mean over the step's tokens, once gradients of ties over two devices are gathered."""
        gather_gradients(self._ties)
        self._remote.scale_gradients(self._window.close(parameters_of(optimizer)))

    def clip(
        self, optimizer: torch.optim.Optimizer, clip_val: float | None, algorithm: str | None, measures: bool
    ) -> torch.Tensor | None:
        """Clip the gradients as Lightning does, to the bit, by the norm of all wherever they are.

        Args:
            optimizer: it steps the parameters that are here.
            clip_val: the largest norm, or the largest value; None or 0 does not clip.
            algorithm: ``"norm"``, ``"value"`` or None for Lightning's default, the norm.
            measures: whether the norm is wanted although nothing is clipped by it.

        Returns:
            The norm before clipping, as a scalar; None if it was not needed.

        Raises:
            ValueError: the gradients are to be clipped by value, and parts are elsewhere.
        """
        max_norm = clip_val if clip_val and clip_val > 0 and algorithm in (None, "norm") else None
        max_value = clip_val if clip_val and clip_val > 0 and max_norm is None else None
        if max_value is not None and self._remote:
            raise ValueError(f"gradient_clip_algorithm is {str(algorithm)!r}; with parts held elsewhere use 'norm'")
        norm = None
        if measures or max_norm is not None:
            norm = total_norm(optimizer, self._remote.gradient_norms())
        if max_norm is not None and norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters_of(optimizer), max_norm, norm)
            self._remote.clip(clip_coefficient(norm, max_norm))
        elif max_value is not None:
            torch.nn.utils.clip_grad_value_(parameters_of(optimizer), max_value)
        return norm

    def order(self, optimizer: torch.optim.Optimizer, number: int) -> None:
        """Have parts elsewhere take the step while it is taken here.

        Args:
            optimizer: it is about to step the parameters that are here, and holds the learning rates.
            number: how many steps were taken before this one.
        """
        self._remote.step(optimizer, number)

    def finish(self, optimizer: torch.optim.Optimizer) -> None:
        """Copy tied tensors, and let go of the gradients.

        Tied tensors are copied to where they are borrowed. Lightning would keep the gradients until the next batch has been run
        forward, beside that batch's activations; lying between these, they made the heap grow by a quarter.

        Args:
            optimizer: it has stepped the parameters that are here.
        """
        copy_to_borrowers(self._ties)
        optimizer.zero_grad()

    def zero_gradients(self) -> None:
        """Have the parts elsewhere forget their gradients, unless they have; those here are the optimizer's."""
        if not self._is_zeroed_before:
            self._remote.zero_gradients()

    def trained_names(self) -> set[str]:
        """Return the unsplit model's names of all tensors that are trained, here and elsewhere."""
        return set(trained_parameters(self._parts)) | self._remote.trained_names()

    def add_state(self, checkpoint: dict[str, Any]) -> None:
        """Put trained tensors into a checkpoint, the state of parts elsewhere, and the gradients of an unfinished step.

        Args:
            checkpoint: Lightning has put the state of the optimizers into it.
        """
        checkpoint["state_dict"] = trained_tensors(self._parts)
        self._remote.add_state(checkpoint)
        if self.is_under_way:
            under_way = gradients(self._parts) | self._remote.gradients()
            checkpoint[_UNFINISHED] = {"counts": self._window.counts(), "gradients": under_way}

    def load_trained(self, checkpoint: dict[str, Any]) -> None:
        """Have all parts, here and elsewhere, hold what a checkpoint has trained; those elsewhere are at its step then.

        Args:
            checkpoint: the share of parts elsewhere is taken out of it.

        Raises:
            CheckpointError: a trained tensor is missing or has another shape.
        """
        load_trained_tensors(self._parts, checkpoint["state_dict"])
        self._remote.take_state(checkpoint)

    def take_state(self, checkpoint: dict[str, Any]) -> None:
        """Give parts elsewhere their share of a checkpoint, and note its unfinished step for `begin`.

        Args:
            checkpoint: the share of parts elsewhere is taken out of it; Lightning loads the rest.
        """
        self._remote.take_state(checkpoint)
        self._unfinished = checkpoint.get(_UNFINISHED)
