"""Running the parts that a server holds, one after another, up to what crosses the next cut or to the top's results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from splitlearn.boundary import LayerOutputs, Parcel
from splitlearn.model import LocalSession, SplitModel, evaluating, has_linear_head
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.served_part import PreparedPart
from splitlearn.randomness import NamedGenerators
from splitlearn.training import LogitsLimit, TopLoss

# Enough to tell whether a head does more than one linear map.
_HEAD_TOKENS = 4
# As transformers names what a top returns.
_OUTPUTS = ("logits", "loss")


@contextmanager
def computing_as(told: pb.Forward, device: torch.device) -> Iterator[None]:
    """Compute as the client does while the block runs: with gradients or without, in its precision.

    Args:
        told: the client's call.
        device: where the parts live.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(told.keeps_graph))
        if told.autocast:
            stack.enter_context(
                torch.autocast(device.type, dtype={"bfloat16": torch.bfloat16, "float16": torch.float16}[told.autocast])
            )
        yield


@dataclass(frozen=True, eq=False)
class LossRequest:
    """A client's wish for the losses of a batch.

    Attributes:
        labels_BT: the token ids, -100 where a token is not supervised, shape (B, T).
        divisor: what to divide the loss by; None asks for logits and transformers' own loss.
    """

    labels_BT: torch.Tensor
    divisor: int | None


@dataclass(frozen=True, eq=False)
class Reached:
    """What parts have made of a parcel.

    Attributes:
        parcel: for the part above; of a top the one that it was given.
        layer_outputs: recorded outputs of all parts below that one, by the part's name.
        results: a top's results by name; empty if the top was not run.
    """

    parcel: Parcel
    layer_outputs: Mapping[str, LayerOutputs]
    results: Mapping[str, torch.Tensor] = field(default_factory=dict)


class HeldParts:
    """The parts that a server holds, as a client's calls run them.

    Args:
        prepared: the parts in a run.
        device: where they live.
        max_logits_mib: how large a batch's logits may become, in MiB; see `TopLoss`.
    """

    def __init__(self, prepared: PreparedPart, device: torch.device, max_logits_mib: LogitsLimit) -> None:
        self._prepared = prepared
        self._device = device
        self._top = next((part for part in prepared.parts if part.spec.has_head), None)
        self._loss = None if self._top is None else TopLoss(self._top, max_logits_mib, lambda: self._has_linear_head)

    def named(self, name: str) -> tuple[SplitModel, ...]:
        """Return the part of a name, or all parts for an empty name."""
        return tuple(part for part in self._prepared.parts if name in ("", part.spec.name))

    def run(
        self,
        parts: tuple[SplitModel, ...],
        parcel: Parcel,
        outputs: Mapping[str, LayerOutputs],
        arguments: Mapping[str, Any],
        generation: LocalSession | None,
        generators: NamedGenerators | None,
        request: LossRequest | None,
    ) -> Reached:
        """Run some parts.

        Args:
            parts: from `named`.
            parcel: for the first of them.
            outputs: recorded outputs of each part below, by the part's name.
            arguments: plain arguments of the transformers model.
            generation: the caches of the generation that the call is of.
            generators: what the parts draw from; None leaves torch's own.
            request: the losses that are wanted of a top.
        """
        head = {name: value for name, value in arguments.items() if name == "logits_to_keep"}
        plain = {name: value for name, value in arguments.items() if name not in head}
        for part in parts:
            name = part.spec.name
            cache = None if generation is None else generation.cache_of(name)
            own: dict[str, Any] = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
            own |= {"device": self._device, **plain}
            hidden_BTD = parcel.hidden_BTD.to(part.blueprint.dtype)
            with nullcontext() if generators is None else generators.drawing(name, self._device):
                if part.spec.has_head:
                    wanted = head | self._wanted(request)
                    output = part.run(hidden_BTD, below=outputs, **parcel.context, **own, **wanted).output
                    return Reached(parcel, outputs, self._results(output, request))
                result = part.run(hidden_BTD, **parcel.context, **own)
            outputs = {**outputs, name: result.layer_outputs}
            parcel = replace(parcel, hidden_BTD=result.output)
        return Reached(parcel, outputs)

    def _wanted(self, request: LossRequest | None) -> dict[str, Any]:
        """Return the arguments with which the top must be run."""
        if request is None or self._loss is None:
            return {}
        if request.divisor is None:
            return {"labels": request.labels_BT.to(self._device)}
        return self._loss.arguments(request.labels_BT.numel())

    def _results(self, output: Any, request: LossRequest | None) -> dict[str, torch.Tensor]:
        if request is None or request.divisor is None or self._loss is None:
            return {name: output[name] for name in _OUTPUTS if output.get(name) is not None}
        losses = self._loss.of(output, request.labels_BT, request.divisor)
        return {"text": losses.text} | ({} if losses.router is None else {"router": losses.router})

    @cached_property
    def _has_linear_head(self) -> bool:
        if self._top is None:
            return False
        dtype, width = self._top.blueprint.dtype, self._top.blueprint.config.get_text_config(decoder=True).hidden_size
        generator = torch.Generator().manual_seed(0)
        smashed_BTD = torch.randn(1, _HEAD_TOKENS, width, generator=generator).to(self._device, dtype)
        with evaluating(self._top):
            return has_linear_head(self._top, smashed_BTD)
