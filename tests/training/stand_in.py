"""A part that stands for one of another party: it can be called and told to step, and its parameters are out of reach."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from splitlearn.boundary import tensors_of
from splitlearn.model import LocalSession, PartOutput, SplitModel
from splitlearn.randomness import NamedGenerators
from splitlearn.training.part_owner import LocalOwner


class SessionStandIn:
    """What the data's owner has of a session: a number, by which the holder of the part finds the cache."""

    def __init__(self, number: int, sessions: dict[int, LocalSession]) -> None:
        self.number = number
        self._sessions = sessions

    @property
    def num_cached_tokens(self) -> int:
        return self._sessions[self.number].num_cached_tokens

    @num_cached_tokens.setter
    def num_cached_tokens(self, number: int) -> None:
        self._sessions[self.number].num_cached_tokens = number

    def change(self, name: str, *arguments: Any) -> None:
        self._sessions[self.number].change(name, *arguments)

    def end(self) -> None:
        self._sessions.pop(self.number).end()


class StandIn(nn.Module):
    """Runs a part as a server would: on tensors without a graph, keeping its own graph until the gradient comes."""

    is_elsewhere = True

    def __init__(self, part: SplitModel, owner: LocalOwner, generators: NamedGenerators) -> None:
        super().__init__()
        sessions: dict[int, LocalSession] = {}

        # In a closure, so that no parameter is found by walking over modules.
        def run(*args: Any, **kwargs: Any) -> PartOutput:
            session = kwargs.get("past_key_values")
            if session is not None:
                kwargs["past_key_values"] = sessions[session.number].cache
            with generators.drawing(part.spec.name):
                return part.train(self.training).run(*args, **kwargs)

        self._run = run
        self._begin = lambda: LocalSession(part)
        self.sessions = sessions
        self._numbers = itertools.count()
        self.spec, self.blueprint, self.device, self.owner = part.spec, part.blueprint, part.device, owner
        self._is_trained = any(parameter.requires_grad for parameter in part.parameters())

    def begin_session(self) -> SessionStandIn:
        number = next(self._numbers)
        self.sessions[number] = self._begin()
        return SessionStandIn(number, self.sessions)

    def run(self, inputs: torch.Tensor, **arguments: Any) -> PartOutput:
        """Run the part, with one autograd step that stands for all of its graph."""
        found: list[PartOutput] = []

        def run(hidden_BTD: torch.Tensor) -> tuple[torch.Tensor, ...]:
            output = self._run(hidden_BTD, **arguments)
            found.append(output)
            return tuple(_differentiable(output))

        # Backward reaches it even where nothing below is trained.
        anchor = torch.zeros((), requires_grad=self._is_trained and torch.is_grad_enabled())
        crossed = _Remote.apply(run, anchor, inputs)
        output = found[0]
        replaced = dict(zip(map(id, _differentiable(output)), crossed, strict=True))
        layer_outputs = {
            name: tuple(replaced.get(id(value), value) for value in values) for name, values in output.layer_outputs.items()
        }
        return PartOutput(replaced[id(output.output)], layer_outputs)


def _differentiable(output: PartOutput) -> list[torch.Tensor]:
    tensors = {id(tensor): tensor for tensor in tensors_of([output.output, dict(output.layer_outputs)])}
    return list(tensors.values())


class _Remote(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Any, anchor: torch.Tensor, hidden_BTD: torch.Tensor) -> Any:
        ctx.set_materialize_grads(False)
        needs_graph = anchor.requires_grad or hidden_BTD.requires_grad
        ctx.received = hidden_BTD.detach().requires_grad_(hidden_BTD.requires_grad)
        with torch.set_grad_enabled(needs_graph):
            ctx.given = run(ctx.received)
        return tuple(tensor.detach() for tensor in ctx.given)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        pairs = [(one, gradient) for one, gradient in zip(ctx.given, gradients, strict=True) if gradient is not None]
        pairs = [(one, gradient) for one, gradient in pairs if one.requires_grad]
        torch.autograd.backward([one for one, _ in pairs], [gradient for _, gradient in pairs])
        return None, None, ctx.received.grad
