"""The parts above a cut as an attacker with public weights uses them: what the head is given, and how that answers to changes.

Shapes: N pieces of text, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from splitlearn.attacks.view import AttackerView
from splitlearn.model import SplitModel, evaluating
from splitlearn.redaction import reason_of

_NARROW = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class HeadCall:
    """One pass of smashed data through the parts above a cut.

    Attributes:
        input_NTD: what the head is given, shape (N, T, D); a function of the smashed data for autograd.
        logits_NTV: the model's logits, shape (N, T, V), in float32 and without a graph.
        slope_NTV: by how much each logit grows with the head's own output; 1 unless the model scales or caps its logits.
        weight_VD: the rows of the head.
    """

    input_NTD: torch.Tensor
    logits_NTV: torch.Tensor
    slope_NTV: torch.Tensor
    weight_VD: torch.Tensor


class PublicTop:
    """The public parts above a cut, in evaluation mode and float32.

    Args:
        view: what the attacker sees; its public model has all parts above the cut.

    Raises:
        ValueError: a part above the cut is not public, or the model has no head.
    """

    def __init__(self, view: AttackerView) -> None:
        parts = () if view.public is None else view.public.above(view.cut)
        if not parts:
            raise ValueError(f"the attack needs public weights of all parts above cut {view.cut}, head included")
        self._parts = [_in_float32(part) for part in parts]
        head = self._parts[-1].model.get_output_embeddings()
        weight_VD = getattr(head, "weight", None)
        if not isinstance(head, nn.Module) or not isinstance(weight_VD, torch.Tensor):
            raise ValueError(f"{type(self._parts[-1].model).__name__} has no head whose rows stand for tokens")
        self._head, self._weight_VD = head, weight_VD.detach().float()

    @property
    def device(self) -> torch.device:
        """Where the lowest of the parts lives."""
        return self._parts[0].device

    def call(self, smashed_NTD: torch.Tensor, mask_NT: torch.Tensor | None = None) -> HeadCall:
        """Run smashed data through the parts.

        Args:
            smashed_NTD: smashed data, shape (N, T, D).
            mask_NT: True for real tokens, shape (N, T); None if all are.
        """
        seen: dict[str, torch.Tensor] = {}

        def note_input(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen["input"] = args[0]

        def note_output(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            # A leaf, so that the slope of what the model does to its logits ends here.
            seen["output"] = output.detach().requires_grad_(torch.is_grad_enabled())
            return seen["output"]

        with ExitStack() as stack:
            stack.enter_context(_exactly_differentiable())
            for part in self._parts:
                stack.enter_context(evaluating(part))
            stack.callback(self._head.register_forward_pre_hook(note_input).remove)
            stack.callback(self._head.register_forward_hook(note_output).remove)
            logits_NTV = _run(self._parts, smashed_NTD.to(self.device), mask_NT)
        slope_NTV = torch.ones((), device=logits_NTV.device).expand(logits_NTV.shape)
        if logits_NTV.requires_grad and logits_NTV is not seen["output"]:
            (slope_NTV,) = torch.autograd.grad(logits_NTV.sum(), seen["output"])
        return HeadCall(seen["input"], logits_NTV.detach().float(), slope_NTV.float(), self._weight_VD)


class HeadJacobian:
    """The matrix by which small changes of smashed data become changes of the head's input, known by its products.

    Products with the transposed matrix are backward passes. Products with the matrix itself are backward passes of those.

    Args:
        smashed_NTD: smashed data, shape (N, T, D), that require gradients.
        input_NTD: the head's input that was computed from them, shape (N, T, D).
    """

    def __init__(self, smashed_NTD: torch.Tensor, input_NTD: torch.Tensor) -> None:
        self._smashed_NTD, self._input_NTD = smashed_NTD, input_NTD

    @property
    def shape(self) -> torch.Size:
        """The shape of the head's input, (N, T, D)."""
        return self._input_NTD.shape

    @property
    def device(self) -> torch.device:
        """Where the head's input lives."""
        return self._input_NTD.device

    def pull(self, gradient_NTD: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the smashed data for one of the head's input, both of shape (N, T, D)."""
        (pulled_NTD,) = torch.autograd.grad(self._input_NTD, self._smashed_NTD, gradient_NTD, retain_graph=True)
        # The lowest part may live on another device than the head; all that is computed with products is beside the head.
        return pulled_NTD.to(self.device)

    def push(self, change_NTD: torch.Tensor) -> torch.Tensor:
        """Return the change of the head's input for one of the smashed data, both of shape (N, T, D).

        Raises:
            ValueError: autograd cannot differentiate one of the layers twice.
        """
        given_NTD, returned_NTD = self._backward
        try:
            change_NTD = change_NTD.to(returned_NTD.device)
            (pushed_NTD,) = torch.autograd.grad(returned_NTD, given_NTD, change_NTD, retain_graph=True)
        except RuntimeError as error:
            raise ValueError(
                f"the layers above the cut cannot be differentiated twice, as this attack must: {reason_of(error)}"
            ) from error
        return pushed_NTD

    @cached_property
    def _backward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A backward pass as a function for autograd: a gradient at the head's input, and that of the smashed data."""
        # It is linear in the gradient that it is given, so any will do.
        given_NTD = torch.zeros_like(self._input_NTD, requires_grad=True)
        (returned_NTD,) = torch.autograd.grad(self._input_NTD, self._smashed_NTD, given_NTD, create_graph=True)
        return given_NTD, returned_NTD


def _run(parts: Sequence[SplitModel], smashed_NTD: torch.Tensor, mask_NT: torch.Tensor | None) -> torch.Tensor:
    inputs = smashed_NTD
    for part in parts:
        arguments: dict[str, Any] = {} if mask_NT is None else {"attention_mask": mask_NT.long()}
        if getattr(part.blueprint.config.get_text_config(decoder=True), "output_router_logits", False):
            arguments["output_router_logits"] = False
        output = part(inputs, use_cache=False, below={}, **arguments)
        inputs = output.logits if part.spec.has_head else output
    return inputs


def _in_float32(part: SplitModel) -> SplitModel:
    """Return a part itself, or a copy in float32 of one whose products would be rounded to a few digits."""
    return copy.deepcopy(part).float() if part.dtype in _NARROW else part


@contextmanager
def _exactly_differentiable() -> Iterator[None]:
    """Compute attention and layers in ways that autograd can differentiate twice."""
    # Fused attention has no second derivative; compiled layers would be compiled anew.
    with sdpa_kernel([SDPBackend.MATH]), torch.compiler.set_stance("force_eager"):
        yield
