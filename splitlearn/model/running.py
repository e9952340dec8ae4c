"""The one way through parts and boundaries, for training, evaluation, generation and trials.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from splitlearn.boundary import (
    Boundary,
    CallKind,
    Handover,
    LayerOutputs,
    Parcel,
    Ticket,
    add_own_outputs,
    pass_directly,
    tensors_of,
)
from splitlearn.cut import PART_NAMES
from splitlearn.model.caches import PartCache
from splitlearn.model.embedding_noise import EmbeddingNoise
from splitlearn.model.sessions import GenerationSession
from splitlearn.model.split_model import SplitModel
from splitlearn.randomness import NamedGenerators

# Is told the stage of a run that begins: a part's name or a cut's.
StageObserver = Callable[[str], None]

# Arguments of a causal LM's forward that only its head uses; all others go to every part.
_HEAD_ARGUMENTS = ("labels", "logits_to_keep", "num_items_in_batch", "shift_labels", "skips_head")


@dataclass(frozen=True, eq=False)
class Finished:
    """The result of a run up to the top.

    Attributes:
        output: the top's output.
        loss_term: scalar that the boundaries' observers add to the training loss; None for nothing.
        origin: scalar at which the graph of whoever sent the top's input ends; None if nothing crossed below the top.
    """

    output: Any
    loss_term: torch.Tensor | None = None
    origin: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class TopRequest:
    """The question to another party that holds the top.

    Attributes:
        labels_BT: labels of shape (B, T); None if no loss is to be computed.
        divisor: what to divide the loss by. The answer is the losses alone; None asks for transformers' output.
        arguments: further arguments of the head.
    """

    labels_BT: torch.Tensor | None
    divisor: int | None
    arguments: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Arriving:
    """The state of a run whose data are with another party: another run waits for the answer, and goes on from it.

    Attributes:
        part: the part that the other party runs.
        call: its call, from `PartElsewhere.send`.
        loss_term: scalar that the boundaries' observers add to the loss so far; None for nothing.
        known: mask, positions and others, by argument name.
        reaches_top: whether the other party runs all parts up to the top, so that its answer is the end of the run.
    """

    part: Any
    call: Any
    loss_term: torch.Tensor | None
    known: Mapping[str, Any] = field(default_factory=dict)
    reaches_top: bool = False


@dataclass(frozen=True, eq=False)
class Run:
    """A way through bottom, trunk and top.

    Attributes:
        parts: the three.
        boundaries: those at cut 1 and cut 2.
        kind: purpose of the call.
        caches: the key-value cache of each part, or its session if another party holds it; None fills none.
        labels_BT: labels of shape (B, T) that the holder of the top must be sent; None if no loss is computed.
        rows_B: ids of the examples in the rows, shape (B), for codecs that remember them; None if they have none.
        generators: random number generators of the parts in training, by the part's name; None leaves torch's default ones.
        observers: are told each stage as it begins: ``"bottom"``, ``"cut_1"``, ``"trunk"``, ``"cut_2"``, ``"top"``.
        embedding_noise: noise on the bottom's embeddings where anything will be sent; None for none.
        divisor: what another party that holds the top divides the loss by; None asks it for the top's output.
    """

    parts: Sequence[SplitModel]
    boundaries: Sequence[Boundary]
    kind: CallKind
    caches: Sequence[PartCache | GenerationSession | None] | None = None
    labels_BT: torch.Tensor | None = None
    rows_B: torch.Tensor | None = None
    generators: NamedGenerators | None = None
    observers: Sequence[StageObserver] = ()
    embedding_noise: EmbeddingNoise | None = None
    divisor: int | None = None

    def __call__(
        self, inputs: torch.Tensor | Parcel | Handover | Arriving, start: int, stop: int, arguments: Mapping[str, Any]
    ) -> Handover | Arriving | Finished:
        """Run the parts ``start`` to ``stop - 1``; each but the bottom is reached over the boundary below it.

        Args:
            inputs: token ids (B, T) for the bottom, otherwise a parcel, or what an earlier run returned.
            start: number of the first part to run.
            stop: one past the number of the last.
            arguments: further arguments of the transformers model, mask and positions among them.

        Returns:
            `Finished` if the top was run here, else that from which a later run goes on: a `Handover`, or `Arriving` if another
            party has the last part.

        Raises:
            ValueError: a part cannot take its input.
        """
        layers = {name: value for name, value in arguments.items() if name not in _HEAD_ARGUMENTS}
        head = {name: value for name, value in arguments.items() if name in _HEAD_ARGUMENTS}
        # Tensors travel in the parcel; plain settings are passed to every part.
        context = {name: value for name, value in layers.items() if any(True for _ in tensors_of(value))}
        settings = {name: value for name, value in layers.items() if name not in context and value is not None}
        at: Handover | Arriving = inputs if isinstance(inputs, (Handover, Arriving)) else Handover(_as_parcel(inputs, context))
        # A parcel alone lacks the recorded outputs of the parts below, so the top refuses requests that need them.
        knows_below = not isinstance(inputs, Parcel) or start == 0
        for index in range(start, stop):
            part = self.parts[index]
            # Looked up once for the boundary, the generators and the part: it walks the part's modules to the first tensor.
            device = part.device
            own: dict[str, Any] = {"use_cache": False, "device": device}
            cache = None if self.caches is None else self.caches[index]
            if cache is not None:
                own |= {"past_key_values": cache, "use_cache": True}
            # A trial crosses its boundaries here, if it crosses any, and asks for what the part alone makes of it.
            if part.is_elsewhere and self.kind is not CallKind.TRIAL:
                at = self._call_elsewhere(index, at, {**own, **settings}, head)
                continue
            at = self._reach(index, at, device)
            self._begin_stage(part.spec.name)
            if part.spec.has_head:
                below = at.layer_outputs if knows_below else None
                with self._drawing(part, device):
                    output = part.run(at.parcel.hidden_BTD, below=below, **at.parcel.context, **own, **settings, **head)
                return Finished(output.output, at.loss_term, at.origin)
            with self._drawing(part, device), self._noisy_embeddings(part):
                output = part.run(at.parcel.hidden_BTD, **at.parcel.context, **own, **settings)
            outputs = {**at.layer_outputs, part.spec.name: output.layer_outputs}
            at = Handover(replace(at.parcel, hidden_BTD=output.output), outputs, at.loss_term)
        return at

    def _begin_stage(self, stage: str) -> None:
        for observer in self.observers:
            observer(stage)

    def _drawing(self, part: SplitModel, device: torch.device) -> AbstractContextManager[None]:
        """Have a part draw from its own generator; a trial draws from none that a run goes on with."""
        # Swapping generators takes some 15 microseconds, which generating would show.
        if self.generators is None or part.is_elsewhere or not part.training or self.kind is CallKind.TRIAL:
            return nullcontext()
        return self.generators.drawing(part.spec.name, device)

    def _noisy_embeddings(self, part: SplitModel) -> AbstractContextManager[None]:
        """Put noise on the embeddings of a bottom, unless nothing of this run is sent to another party."""
        noise = self.embedding_noise
        if noise is None or not part.spec.has_embedding or all(each.passes_directly(self.kind) for each in self.boundaries):
            return nullcontext()
        return noise.applied(part, self.generators, counted=self.kind is CallKind.TRAIN)

    def finish(self, at: Arriving) -> Finished:
        """Wait for the answer of another party that runs the top.

        Args:
            at: a run that reaches the top.
        """
        self._begin_stage(PART_NAMES[-1])
        return Finished(at.part.finish(at.call), at.loss_term)

    def _call_elsewhere(
        self, index: int, at: Handover | Arriving, arguments: dict[str, Any], head: Mapping[str, Any]
    ) -> Arriving:
        """Send a parcel over the boundary below a part to the party that holds it."""
        part: Any = self.parts[index]
        if isinstance(at, Arriving) and at.reaches_top:
            return at
        boundary, further = self.boundaries[index - 1], self.boundaries[index:]
        if isinstance(at, Arriving):
            ticket, known, loss_term = self._relay(boundary, at), at.known, at.loss_term
        else:
            self._begin_stage(boundary.route.name)
            parcel = self._narrowed(index, at.parcel)
            ticket = boundary.send(parcel, self.kind, at.layer_outputs, self.labels_BT, self.rows_B)
            known, loss_term = parcel.context, _sum(at.loss_term, ticket.loss_term)
        self._begin_stage(part.spec.name)
        # The party runs all parts up to the next crossing.
        above = further[0] if any(each.route.is_crossed for each in further) else None
        asked = None
        if above is None:
            asked = TopRequest(head.get("labels") if self.divisor is None else self.labels_BT, self.divisor, head)
            caches = [cache for cache in (self.caches or ())[index:] if cache is not None]
            arguments |= {"past_key_values": caches[0], "use_cache": True} if caches else {}
        call = part.send(ticket, (boundary, above), arguments, known, asked)
        return Arriving(part, call, loss_term, known, reaches_top=above is None)

    def _relay(self, boundary: Boundary, at: Arriving) -> Ticket:
        """Wait for what another party sends to a third one, and pass it on as it is: servers do not call each other."""
        self._begin_stage(at.part.spec.name)
        ticket: Ticket = at.part.receive(at.call)
        self._begin_stage(boundary.route.name)
        boundary.count_inputs(self.kind, at.known, self.labels_BT)
        return add_own_outputs(boundary, ticket)

    def _narrowed(self, index: int, parcel: Parcel) -> Parcel:
        """Cast a parcel if the dtype of the part that it goes to is narrower, so that fewer bytes cross."""
        dtype = self.parts[index].blueprint.dtype
        differs = self.parts[index - 1].blueprint.dtype != dtype
        return _cast(parcel, dtype) if differs and dtype.itemsize < parcel.hidden_BTD.dtype.itemsize else parcel

    def _reach(self, index: int, at: Handover | Arriving, device: torch.device) -> Handover:
        """Carry data over the boundary below a part, to that part and its device."""
        if index == 0:
            return cast(Handover, at)
        boundary, below, above = self.boundaries[index - 1], self.parts[index - 1], self.parts[index]
        differs = below.blueprint.dtype != above.blueprint.dtype
        dtype = above.blueprint.dtype
        outputs: Mapping[str, LayerOutputs]
        if isinstance(at, Arriving):
            self._begin_stage(below.spec.name)
            ticket = at.part.receive(at.call)
            self._begin_stage(boundary.route.name)
            parcel, outputs = boundary.receive(ticket, device)
            return Handover(_cast(parcel, dtype) if differs else parcel, outputs, at.loss_term, ticket.origin)
        self._begin_stage(boundary.route.name)
        parcel = self._narrowed(index, at.parcel)
        loss_term, origin = at.loss_term, None
        if boundary.passes_directly(self.kind):
            parcel, outputs = pass_directly(parcel, device), at.layer_outputs
        else:
            ticket = boundary.send(parcel, self.kind, at.layer_outputs, self.labels_BT, self.rows_B)
            parcel, outputs = boundary.receive(ticket, device)
            loss_term, origin = _sum(loss_term, ticket.loss_term), ticket.origin
        return Handover(_cast(parcel, dtype) if differs else parcel, outputs, loss_term, origin)


def _as_parcel(inputs: torch.Tensor | Parcel, context: Mapping[str, Any]) -> Parcel:
    if isinstance(inputs, Parcel):
        return inputs
    others = {name: value for name, value in context.items() if name not in ("attention_mask", "position_ids")}
    # Token ids stand in a parcel only on their way into the bottom.
    return Parcel(inputs, context.get("attention_mask"), context.get("position_ids"), others)


def _cast(parcel: Parcel, dtype: torch.dtype) -> Parcel:
    return replace(parcel, hidden_BTD=parcel.hidden_BTD.to(dtype))


def _sum(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other.to(one.device)
