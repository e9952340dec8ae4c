"""The work of a part's holder: each kind of message, carried out and answered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from splitlearn.boundary import (
    Boundary,
    CallKind,
    Ticket,
    load,
    load_gradients,
    unload,
    unload_gradients,
)
from splitlearn.cut import PART_NAMES
from splitlearn.model import LocalSession
from splitlearn.parties.cargo import (
    read_freight,
    read_gradients,
    read_result_gradients,
    write_encoded,
    write_gradients,
    write_places,
    write_results,
)
from splitlearn.parties.errors import PartyError
from splitlearn.parties.forward_checks import (
    ServerLimits,
    check_forward,
    check_shape,
    checked_arguments,
    checked_context,
    checked_labels,
)
from splitlearn.parties.held_parts import HeldParts, LossRequest, computing_as
from splitlearn.parties.part_state import read_state, write_state
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.served_part import PreparedPart, ServedPart, boundaries_of_trial, scalar_wire
from splitlearn.parties.state_exchange import StateExchange
from splitlearn.parties.values import read_value
from splitlearn.parties.wire import Message
from splitlearn.randomness import NamedGenerators
from splitlearn.training import StepOrder

Answer = tuple[pb.Head, Mapping[str, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Graph:
    """What a forward call keeps for its backward.

    Attributes:
        incoming: the ticket that has come.
        outgoing: the ticket that was sent; None from a top.
        above: the boundary that it has passed.
        results: a top's results by name.
    """

    incoming: Ticket
    outgoing: Ticket | None
    above: Boundary | None
    results: Mapping[str, torch.Tensor]


@dataclass(eq=False)
class Session:
    """One client's conversation, which outlives a broken connection.

    Attributes:
        client: the client's name.
        must_load: whether the part has been trained for another run, so that the client must send it a state first.
        pending: what forward calls keep for their backward, by the call's number.
        generations: the caches of generations under way, by the client's number.
        generators: what is drawn from for this client, if several train the part; None for the part's own.
        boundaries: the client's own, if several train the part; None for the part's own.
        num_steps: how many steps the client has ordered, if several train the part; None until one that goes on orders one.
        states: states on their way to the client and from it.
    """

    client: str
    must_load: bool = False
    pending: OrderedDict[int, Graph] = field(default_factory=OrderedDict)
    generations: dict[int, LocalSession] = field(default_factory=dict)
    generators: NamedGenerators | None = None
    boundaries: Mapping[str, Boundary] | None = None
    num_steps: int | None = 0
    states: StateExchange = field(init=False)

    def __post_init__(self) -> None:
        self.states = StateExchange(self.client)


class PartWork:
    """Carries out messages on a part that is prepared for a run.

    Args:
        served: the part.
        prepared: the part in this run.
        limits: what a client may ask for.

    Attributes:
        handlers: what carries out a message, by the message's kind.
        num_steps: how many steps the part has taken.
    """

    _is_shared = False

    def __init__(self, served: ServedPart, prepared: PreparedPart, limits: ServerLimits) -> None:
        self.num_steps = 0
        self._served = served
        self._prepared = prepared
        self._limits = limits
        self._held = HeldParts(prepared, served.device, served.max_logits_mib)
        self._boundaries = prepared.boundaries
        # Trials and the like are not encoded.
        self._plain: Mapping[str, Boundary] = served.make_boundaries()
        self.handlers: dict[str, Callable[[Session, Message], Answer]] = {
            "forward": self._forward,
            "backward": self._backward,
            "ask_norms": self._norms,
            "zero_gradients": self._zero,
            "step": self._step,
            "begin_session": self._begin_generation,
            "change_session": self._change_generation,
            "end_session": self._end_generation,
            "ask_state": self._ask_state,
            "load_state": self._load_state,
        }

    def _around(self, session: Session, kind: CallKind) -> tuple[Boundary, Boundary | None]:
        """Return the boundary below the parts and the one above them; there is none above a top."""
        below, above = PART_NAMES.index(self._served.names[0]), PART_NAMES.index(self._served.names[-1]) + 1
        boundaries = self._plain if kind is CallKind.TRIAL else session.boundaries or self._boundaries
        return boundaries[f"cut_{below}"], boundaries.get(f"cut_{above}")

    def _forward(self, session: Session, message: Message) -> Answer:
        told, config = message.head.forward, self._prepared.parts[0].blueprint.config
        if session.must_load:
            raise PartyError(
                f"the {self._served.name} has taken {self.num_steps} steps in another run: go on with that run from its last "
                "checkpoint (ckpt_path=last), or have the server started anew for a new run",
                pb.ERROR_KIND_STEP,
                is_final=True,
            )
        kind = check_forward(told, len(session.pending), self._limits, session.client)
        check_shape(torch.Size(told.inputs[0].shape), config, self._limits, session.client)
        parts = self._held.named(told.part)
        if not parts or (told.part and kind is not CallKind.TRIAL):
            raise PartyError(
                f"{session.client} calls the {told.part[:80]!r} alone; only trials do so, with a part that is here"
            )
        generation = None
        if told.session:
            generation = self._generation(session, told.session)
            generation.num_cached_tokens = told.num_cached_tokens
        num_cached = 0 if generation is None else told.num_cached_tokens
        # A part without layers has no cache, and does not look at the mask.
        has_layers = any(part.spec.start < part.spec.end for part in parts)
        context = checked_context(told, message, num_cached, config, session.client) if has_layers else {}
        labels_BT = checked_labels(told, message.tensors, config, session.client)
        freight = read_freight(
            told.inputs, told.layer_outputs, message.tensors, session.client, context, self._limits.checks_finite
        )
        below, above = boundaries_of_trial(told.part) if told.part else self._around(session, kind)
        wire = scalar_wire(freight.dtypes[0], told.keeps_graph and any(freight.needs_gradient))
        for part in parts:
            if part.training != told.is_training:
                part.train(told.is_training)
        with computing_as(told, self._served.device):
            ticket = load(below, freight, kind, wire)
            parcel, outputs = below.receive(ticket, self._served.device)
            arguments = checked_arguments(told, session.client)
            draws = told.is_training and kind is not CallKind.TRIAL
            generators = (session.generators or self._prepared.generators) if draws else None
            request = None if labels_BT is None else LossRequest(labels_BT, int(told.num_tokens) or None)
            reached = self._held.run(parts, parcel, outputs, arguments, generation, generators, request)
            outgoing = None
            if above is not None:
                outgoing = above.send(reached.parcel, kind, reached.layer_outputs, rows_B=freight.rows_B)
        return self._outputs(session, message, Graph(ticket, outgoing, above, reached.results))

    def _outputs(self, session: Session, message: Message, graph: Graph) -> Answer:
        """Return the answer to a forward call, and keep its graph if a backward pass will come."""
        tensors: dict[str, torch.Tensor] = {}
        if graph.outgoing is None or graph.above is None:
            told = pb.Outputs(outputs=write_results(graph.results, tensors))
        else:
            freight = unload(graph.outgoing, graph.above)
            told = pb.Outputs(outputs=write_encoded(freight, tensors), layer_outputs=write_places(freight))
        if message.head.forward.keeps_graph and any(head.needs_gradient for head in told.outputs):
            session.pending[message.head.call] = graph
        return pb.Head(outputs=told), tensors

    def _backward(self, session: Session, message: Message) -> Answer:
        told = message.head.backward
        graph = session.pending.pop(told.forward, None)
        if graph is None:
            raise PartyError(
                f"{session.client} sent gradients for call {told.forward}, which waits for none; it may have sent them before",
                pb.ERROR_KIND_STEP,
            )
        if told.zeroes_first:
            self._prepared.owner.zero_gradients()
        if graph.outgoing is None or graph.above is None:
            self._begin_at_results(graph.results, told, message.tensors, session.client)
        else:
            count = len(graph.outgoing.ways)
            gradients = read_gradients(told.gradients, message.tensors, count, session.client, self._limits.checks_finite)
            load_gradients(graph.above, graph.outgoing, gradients)
            torch.autograd.backward([graph.outgoing.wire], [torch.zeros_like(graph.outgoing.wire)])
        tensors: dict[str, torch.Tensor] = {}
        heads = write_gradients(unload_gradients(graph.incoming), tensors)
        return pb.Head(gradients=pb.Gradients(gradients=heads)), tensors

    def _begin_at_results(
        self, results: Mapping[str, torch.Tensor], told: pb.Backward, tensors: Mapping[str, torch.Tensor], client: str
    ) -> None:
        """Go back from the gradients of a top's results."""
        gradients = read_result_gradients(told.gradients, tensors, results, client, self._limits.checks_finite)
        if gradients:
            given = [gradient.to(self._served.device) for gradient in gradients.values()]
            torch.autograd.backward([results[name] for name in gradients], given)

    def _norms(self, session: Session, message: Message) -> Answer:
        owner = self._prepared.owner
        tensors: dict[str, torch.Tensor] = {}
        groups = []
        for name, norms in owner.gradient_norms(message.head.ask_norms.scale).items():
            positions = [place for place, tensor in enumerate(owner.names_of(name)) if tensor in norms]
            groups.append(pb.GroupNorms(name=name, positions=positions, is_empty=not norms))
            if norms:
                tensors[f"norms/{name}"] = torch.stack([norm.cpu() for norm in norms.values()])
        return pb.Head(norms=pb.Norms(groups=groups)), tensors

    def _zero(self, session: Session, message: Message) -> Answer:
        self._prepared.owner.zero_gradients()
        return self._done()

    def _step(self, session: Session, message: Message) -> Answer:
        told = message.head.step
        if told.number != self.num_steps:
            raise PartyError(
                f"{session.client} orders step {told.number}, but the {self._served.name} has taken {self.num_steps}: load a "
                "checkpoint of one step on both sides",
                pb.ERROR_KIND_STEP,
                is_final=True,
            )
        rates = {group.name: group.learning_rate for group in told.groups}
        clip = message.tensors.get("clip_coefficient") if told.clips else None
        self._prepared.owner.apply(StepOrder(told.number, rates, told.scale, clip))
        self.num_steps += 1
        return self._done()

    def _begin_generation(self, session: Session, message: Message) -> Answer:
        number = message.head.begin_session.session
        if len(session.generations) >= self._limits.max_sessions:
            raise PartyError(
                f"{session.client} has {len(session.generations)} generations under way, and at most "
                f"{self._limits.max_sessions} may be; end one first",
                pb.ERROR_KIND_LIMIT,
            )
        session.generations[number] = LocalSession(*self._prepared.parts)
        return self._done()

    def _change_generation(self, session: Session, message: Message) -> Answer:
        told = message.head.change_session
        arguments = read_value(told.arguments, message.tensors, session.client) or ()
        self._generation(session, told.session).change(told.method, *arguments)
        return self._done()

    def _end_generation(self, session: Session, message: Message) -> Answer:
        generation = session.generations.pop(message.head.end_session.session, None)
        if generation is not None:
            generation.end()
        return self._done()

    def _generation(self, session: Session, number: int) -> LocalSession:
        if number not in session.generations:
            raise PartyError(f"{session.client} names generation {number}, which this server does not know; begin another")
        return session.generations[number]

    def _ask_state(self, session: Session, message: Message) -> Answer:
        told = message.head.ask_state
        return session.states.send(told, partial(self._write_state, session, told.what), self._limits, self._is_shared)

    def _write_state(self, session: Session, what: str, tensors: dict[str, torch.Tensor]) -> pb.Value:
        """Return what a client asks for; its tensors, which share memory with the part, are added to ``tensors``."""
        return write_state(self._prepared.owner, what, tensors)

    def _load_state(self, session: Session, message: Message) -> Answer:
        told = message.head.load_state
        tensors = session.states.take(told, message.tensors, self._limits)
        if tensors is not None:
            self._read_state(session, told, tensors)
        return self._done()

    def _read_state(self, session: Session, told: pb.LoadState, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what a client has sent, once all of it has come."""
        num_steps = read_state(self._prepared.owner, told.what, told.value, tensors, session.client)
        if num_steps is not None:
            self.num_steps, session.must_load = num_steps, False

    def _done(self) -> Answer:
        return pb.Head(done=pb.Done(num_steps=self.num_steps)), {}
