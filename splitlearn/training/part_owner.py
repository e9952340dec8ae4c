"""Who owns what of an optimizer step, when parts may be held by several parties.

The party that has the data owns the step: it says when one is taken, at which learning rates, and by how much gradients are
scaled and clipped. Whoever holds a part owns its parameters, their gradients and their optimizer state, and follows
orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedConfig

from splitlearn.boundary import Boundary, Ticket, codec_states
from splitlearn.cut import PartSpec
from splitlearn.model import Blueprint, GenerationSession, PartOutput, SplitModel, TopRequest, trained_parameters
from splitlearn.randomness import NamedGenerators
from splitlearn.training.checkpoint_content import (
    CODECS_KEY,
    GENERATORS_KEY,
    gradients,
    load_gradients,
    load_trained_tensors,
    speak_names,
    trained_tensors,
)
from splitlearn.training.optimization import Optimization

# By the name of the parameter group, then by the unsplit model's name of the tensor.
GradientNorms = Mapping[str, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class StepOrder:
    """An order of the step's owner to the holder of a part.

    Attributes:
        number: how many steps were taken before this one.
        learning_rates: by the name of the parameter group.
        scale: what gradients are multiplied by before anything else.
        clip_coefficient: what they are multiplied by after that, a scalar; None clips nothing.
    """

    number: int
    learning_rates: Mapping[str, float]
    scale: float = 1.0
    clip_coefficient: torch.Tensor | None = None


class PartOwner(Protocol):
    """The interface of a part's holder for a step. Forward and backward go through the part itself."""

    def group_settings(self) -> list[dict[str, Any]]:
        """Return ``name``, ``lr`` and ``weight_decay`` of each parameter group, in order."""

    def trained_names(self) -> set[str]:
        """Return the unsplit model's names of the tensors that are trained."""

    def zero_gradients(self) -> None:
        """Forget the gradients."""

    def expect_norms(self, scale: float | None) -> None:
        """Know that `gradient_norms` is called with this ``scale`` after the coming backward pass, the last one of its step.

        None takes an earlier announcement back.
        """

    def gradient_norms(self, scale: float) -> GradientNorms:
        """Scale the gradients by ``scale``, once a step, and return the norm of each, as scalars."""

    def apply(self, order: StepOrder) -> None:
        """Take a step, and let go of its gradients."""

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradients of a step that is under way, under the unsplit model's names."""

    def load_gradients(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Go on with a step from what `gradients` returned; gradients of other parts are passed over."""

    def state(self) -> dict[str, Any]:
        """Return trained tensors and optimizer state under the unsplit model's names, and that of random numbers and codecs."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""


class PartElsewhere(Protocol):
    """A part that another party holds, behind the interface of `SplitModel`: it is called alike, and has no parameters here.

    It is a ``torch.nn.Module``. Its output requires gradients if anything of the part is trained, so that backward reaches it.

    Attributes:
        spec: which part it is.
        blueprint: the unsplit model's structure.
        config: the unsplit model's configuration.
        device: where it takes and returns tensors.
        owner: who takes its steps; the same object for all parts that one party holds.
        base_digest: a digest of its weights in the base checkpoint; None if all of them are trained.
        is_elsewhere: True. It draws its random numbers itself, from a generator that has the part's name.
        waited_seconds: how long this process has waited for the holder so far.
        computed_seconds: how long the holder has computed so far, as it says itself.
    """

    spec: PartSpec
    blueprint: Blueprint
    config: PreTrainedConfig
    device: torch.device
    owner: PartOwner
    base_digest: str | None
    is_elsewhere: bool
    waited_seconds: float
    computed_seconds: float

    def send(
        self,
        ticket: Ticket,
        boundaries: tuple[Boundary, Boundary | None],
        arguments: Mapping[str, Any],
        known: Mapping[str, Any],
        asked: TopRequest | None = None,
    ) -> Any:
        """Send a parcel to the holder; several may be sent before the first is received.

        Args:
            ticket: from the boundary below the part.
            boundaries: those below and above the parts that the holder runs; None above the top.
            arguments: plain arguments of the transformers model; in generation a session as ``past_key_values``.
            known: mask, positions and others, which this party has already, by argument name.
            asked: the question to the holder of the top; None if the holder does not have it.

        Returns:
            A call for `receive`, or for `finish` if the holder has the top.
        """

    def receive(self, call: Any) -> Ticket:
        """Wait for the answer to a parcel, and return a ticket for the boundary above the part."""

    def finish(self, call: Any) -> Any:
        """Wait for the answer of the top: `TopLosses` if a divisor was given, else transformers' output."""

    def run(self, inputs: torch.Tensor, **arguments: Any) -> PartOutput:
        """Run the part past the boundaries, as trials do; see `SplitModel.run`.

        Args:
            inputs: smashed data of shape (B, T, D), or token ids (B, T) for a bottom.
            **arguments: mask, positions and so on; in generation a session as ``past_key_values``.
        """

    def begin_session(self) -> GenerationSession:
        """Return an empty key-value cache that the holder keeps for one generation."""


class LocalOwner:
    """Holds parts of this process with an AdamW of their own.

    Args:
        parts: the parts, with what is trained marked.
        optimization: learning rates and decay; rates come with each order afterwards.
        generators: what the parts draw from, which is kept with their state; of the seed that the data's owner has.
        boundaries: those beside the parts, whose codecs' memory is kept with the parts' state.
    """

    def __init__(
        self,
        parts: Sequence[SplitModel],
        optimization: Optimization,
        generators: NamedGenerators | None = None,
        boundaries: Sequence[Boundary] = (),
    ) -> None:
        self._parts = parts
        self._generators = generators
        self._boundaries = boundaries
        self._optimizer: torch.optim.Optimizer | None = None
        self._names = {parameter: name for name, parameter in trained_parameters(parts).items()}
        if self._names:
            self._optimizer = optimization.make_optimizer(parts)
            speak_names(self._optimizer, parts)
        self._is_scaled = False
        self._num_steps = 0

    def group_settings(self) -> list[dict[str, Any]]:
        """Return ``name``, ``lr`` and ``weight_decay`` of each parameter group, in order."""
        return [{key: group[key] for key in ("name", "lr", "weight_decay")} for group in self._groups]

    def trained_names(self) -> set[str]:
        """Return the unsplit model's names of the tensors that are trained."""
        return set(self._names.values())

    def names_of(self, group_name: str) -> list[str]:
        """Return the unsplit model's names of the tensors of a parameter group, in its order."""
        (group,) = (group for group in self._groups if group["name"] == group_name)
        return [self._names[parameter] for parameter in group["params"]]

    def zero_gradients(self) -> None:
        """Forget the gradients."""
        for group in self._groups:
            for parameter in group["params"]:
                parameter.grad = None
        self._is_scaled = False

    def expect_norms(self, scale: float | None) -> None:
        """Do nothing: norms of gradients that are here are there at once."""

    def gradient_norms(self, scale: float) -> dict[str, dict[str, torch.Tensor]]:
        """Scale the gradients by ``scale``, once a step, and return the norm of each, as scalars."""
        self._scale(scale)
        return {
            group["name"]: {
                self._names[parameter]: torch.linalg.vector_norm(parameter.grad)
                for parameter in group["params"]
                if parameter.grad is not None
            }
            for group in self._groups
        }

    def apply(self, order: StepOrder) -> None:
        """Take a step, and let go of its gradients.

        Raises:
            ValueError: the order is for another step than the next, or a group's learning rate is missing.
        """
        if order.number != self._num_steps:
            raise ValueError(f"step {order.number} was ordered, but {self._num_steps} steps have been taken here")
        for group in self._groups:
            if group["name"] not in order.learning_rates:
                raise ValueError(f"the order has no learning rate for the group {group['name']!r}")
            group["lr"] = order.learning_rates[group["name"]]
        self._scale(order.scale)
        gradients = self._gradients()
        if order.clip_coefficient is not None and gradients:
            torch._foreach_mul_(gradients, order.clip_coefficient.to(gradients[0].device))
        if self._optimizer is not None:
            self._optimizer.step()
        self._num_steps += 1
        self.zero_gradients()

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradients of a step that is under way, by name; they share memory with the parts."""
        return gradients(self._parts)

    def load_gradients(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Go on with a step from what `gradients` returned; gradients of other parts are passed over."""
        load_gradients(self._parts, gradients)
        self._is_scaled = False

    def take_gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradients by name, and leave none: they are one client's share of a step."""
        taken = {name: parameter.grad for parameter, name in self._names.items() if parameter.grad is not None}
        self.zero_gradients()
        return taken

    def put_gradients(self, gradients: Mapping[str, torch.Tensor], *, is_scaled: bool = False) -> None:
        """Have these gradients in the place of those there are; they are not copied.

        Args:
            gradients: from `take_gradients`.
            is_scaled: whether they are scaled already for the coming step.
        """
        for parameter, name in self._names.items():
            parameter.grad = gradients.get(name)
        self._is_scaled = is_scaled

    def make_schedule(self, optimization: Optimization, num_steps: int) -> torch.optim.lr_scheduler.LambdaLR | None:
        """Return a schedule of the holder's own over ``num_steps`` steps; None if nothing of the parts is trained."""
        return None if self._optimizer is None else optimization.make_schedule(self._optimizer, num_steps)

    def state(self) -> dict[str, Any]:
        """Return trained tensors and optimizer state under the unsplit model's names, and that of random numbers and codecs.

        Tensors share memory with the parts.
        """
        return {
            "num_steps": self._num_steps,
            "state_dict": trained_tensors(self._parts),
            "optimizer": {"state": {}, "param_groups": []} if self._optimizer is None else self._optimizer.state_dict(),
            GENERATORS_KEY: None if self._generators is None else self._generators.state(),
            CODECS_KEY: codec_states(self._boundaries),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            CheckpointError: it is of other parameters.
        """
        load_trained_tensors(self._parts, state["state_dict"])
        if self._optimizer is not None:
            self._optimizer.load_state_dict(state["optimizer"])
        if self._generators is not None:
            self._generators.load_state(state[GENERATORS_KEY])
        for boundary in self._boundaries:
            boundary.load_codec_states(state[CODECS_KEY])
        self._num_steps = state["num_steps"]

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """The parameter groups; none if nothing of the parts is trained."""
        return [] if self._optimizer is None else self._optimizer.param_groups

    def _gradients(self) -> list[torch.Tensor]:
        parameters = (parameter for group in self._groups for parameter in group["params"])
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    def _scale(self, scale: float) -> None:
        gradients = self._gradients()
        if not self._is_scaled and scale != 1.0 and gradients:
            torch._foreach_mul_(gradients, scale)
        self._is_scaled = True
