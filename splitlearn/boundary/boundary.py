"""The boundary at one cut, which all data that go from part to part pass.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from splitlearn.boundary import crossing
from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.codecs import Codec, CodecContext, Columns, Exact
from splitlearn.boundary.meter import PAYLOADS, TrafficMeter
from splitlearn.boundary.observer import BoundaryObserver
from splitlearn.boundary.parcel import LayerOutputs, Parcel, tensors_of, to_device
from splitlearn.boundary.routes import Direction, Route
from splitlearn.randomness import NamedGenerators, default_generators

# Stands for the context of a codec that looks at none.
_NOT_READ = CodecContext(CallKind.TRIAL, "", PAYLOADS[0], torch.Size())


@dataclass(frozen=True, eq=False)
class Ticket:
    """A parcel under way, from `Boundary.send` to `Boundary.receive`.

    Attributes:
        kind: purpose of the call.
        context: mask, positions and other tensors for the receiver, by argument name.
        layer_outputs: recorded outputs of each part below, by the part's name; the route says which of them cross here.
        loss_term: scalar that the observers add to the training loss; None for nothing.
        under_way: the encoded tensors, and on the way back their gradients.
        wire: a scalar that connects the sender's graph with the receiver's.
        places: from a tensor's id to its place among those under way: a tensor that is named twice crosses once.
        ways: the transfers of each tensor under way.
        rows_B: ids of the batch's examples, shape (B); None if the data have none.
        link: of what another process has sent, the scalar that the wire was made of; None if the wire is the sender's own.
    """

    kind: CallKind
    context: Mapping[str, Any]
    layer_outputs: Mapping[str, LayerOutputs]
    loss_term: torch.Tensor | None
    under_way: crossing.Ticket
    wire: torch.Tensor
    places: Mapping[int, int]
    ways: Sequence[Sequence[Direction]]
    rows_B: torch.Tensor | None
    link: torch.Tensor | None = None

    @property
    def origin(self) -> torch.Tensor:
        """The scalar at which the graph of whoever sent it ends; what lies between it and the wire sends gradients back."""
        return self.wire if self.link is None else self.link


class Boundary:
    """Sends and receives all data that cross one cut.

    With the codec `Exact` it is exact: values and gradients come out as they went in, to the bit. Autograd drives the
    gradients back over it; they cannot be differentiated a second time. Nothing crosses inside one party or in a trial.

    Args:
        route: which way data pass.
        meter: counts the bytes that cross; None makes one of its own.
        codec: encodes smashed data and recorded outputs; None sends them as they are.
        gradient_codec: encodes their gradients; None sends them as they are.
        generators: random number generators by name; None uses the process's own.

    Attributes:
        observers: are shown the parcels and gradients that pass.
        received: of ``"activation"`` and ``"gradient"`` those that another process sends: their codec only decodes here.
    """

    def __init__(
        self,
        route: Route,
        meter: TrafficMeter | None = None,
        codec: Codec | None = None,
        gradient_codec: Codec | None = None,
        generators: NamedGenerators | None = None,
    ) -> None:
        self.route = route
        self.meter = meter or TrafficMeter()
        self.codec = codec or Exact()
        self.gradient_codec = gradient_codec or Exact()
        self.observers: list[BoundaryObserver] = []
        self.received: Collection[str] = ()
        self._generators = generators
        self._carries_trials = False

    def rehearsal(self, meter: TrafficMeter, generators: NamedGenerators) -> Boundary:
        """Return a copy over which trials cross as other calls do, encoded and shown to observers.

        Nothing of this boundary changes by it: the copy has its own codecs with their state, its own observers (none yet), and
        the given meter and random numbers.

        Args:
            meter: counts the bytes of the trials.
            generators: random number generators by name.
        """
        copied = copy.copy(self)
        copied.meter, copied._generators, copied.observers, copied._carries_trials = meter, generators, [], True
        copied.codec, copied.gradient_codec = copy.deepcopy((self.codec, self.gradient_codec))
        return copied

    def passes_directly(self, kind: CallKind) -> bool:
        """Whether nothing is sent: both sides are one party, or the call is a trial, which only a rehearsal carries.

        Args:
            kind: purpose of the call.
        """
        return not self.route.is_crossed or (kind is CallKind.TRIAL and not self._carries_trials)

    def generator(self, payload: str, device: torch.device) -> torch.Generator:
        """Return the generator from which codecs and observers draw noise for the tensors that are sent here.

        There is one for activations, which the party below the cut sends, and one for gradients, which the party above sends.
        Each is seeded by its name and kept in the checkpoints of a run, so that the noise is the same in one process as in two.

        Args:
            payload: ``"activation"`` or ``"gradient"``.
            device: device of the noise.

        Returns:
            The generator ``cut_1/activation`` and so on; the device's default generator if the model has no seed of its own.

        Raises:
            ValueError: ``payload`` is neither.
        """
        if payload not in PAYLOADS:
            raise ValueError(f"payload is {payload!r}; use {' or '.join(map(repr, PAYLOADS))}")
        if self._generators is None:
            return default_generators(device)[-1]
        return self._generators.generator(f"{self.route.name}/{payload}", device)

    def has_secret_noise(self, payload: str) -> bool:
        """Whether noise on the tensors that are sent here follows from a secret key, and not from the run's public seed.

        Args:
            payload: ``"activation"`` or ``"gradient"``.
        """
        return self._generators is not None and self._generators.is_secret(f"{self.route.name}/{payload}")

    def codec_states(self) -> dict[str, dict[str, Any]]:
        """Return what the codecs remember from call to call, by ``cut_1/activation`` and so on; only those that do.

        Of what another process sends, that process has it.
        """
        own = {payload: codec for payload, codec in self._codecs().items() if payload not in self.received}
        states = {f"{self.route.name}/{payload}": codec.state_dict() for payload, codec in own.items()}
        return {name: state for name, state in states.items() if state}

    def load_codec_states(self, states: Mapping[str, Any]) -> None:
        """Go on from what `codec_states` of the senders returned; states of other cuts are passed over.

        Args:
            states: by ``cut_1/activation`` and so on; a codec that is not in it begins anew.

        Raises:
            ValueError: a state is damaged, or of another codec.
        """
        for payload, codec in self._codecs().items():
            state = states.get(f"{self.route.name}/{payload}") or {}
            codec.load_state_dict(codec.receiver_state(state) if payload in self.received else state)

    def _codecs(self) -> dict[str, Codec]:
        return dict(zip(PAYLOADS, (self.codec, self.gradient_codec), strict=True))

    def send(
        self,
        parcel: Parcel,
        kind: CallKind,
        layer_outputs: Mapping[str, LayerOutputs] | None = None,
        labels_BT: torch.Tensor | None = None,
        rows_B: torch.Tensor | None = None,
    ) -> Ticket:
        """Send a parcel to the part above; several may be sent before the first is received.

        Args:
            parcel: smashed data, mask and positions for the part above.
            kind: purpose of the call.
            layer_outputs: recorded outputs of each part below, by the part's name.
            labels_BT: the labels of the rows, shape (B, T), which are counted where they must cross.
            rows_B: ids of the examples in the rows, shape (B), for codecs that remember them; None if they have none.

        Returns:
            A ticket for `receive`.
        """
        layer_outputs = layer_outputs or {}
        tensors, ways = [parcel.hidden_BTD], [self.route.hops]
        places = {id(parcel.hidden_BTD): 0}
        for name, way in self.route.layer_outputs_of.items():
            for tensor in tensors_of(layer_outputs.get(name, {})):
                if tensor.is_floating_point() and places.setdefault(id(tensor), len(tensors)) == len(tensors):
                    tensors.append(tensor)
                    ways.append(way)
        loss_term = self._show_sent(parcel, kind)
        self.count_inputs(kind, parcel.context, labels_BT)

        encode, decode_gradient = self._sending(tensors, ways, kind, rows_B, parcel.attention_mask)

        def settle(gradient_BTD: torch.Tensor) -> None:
            for observer in self.observers:
                observer.on_receive_gradient(self.route.cut, gradient_BTD)

        under_way, wire = crossing.send(tensors, encode, decode_gradient, settle)
        return Ticket(kind, parcel.context, layer_outputs, loss_term, under_way, wire, places, ways, rows_B)

    def send_outputs(
        self, tensors: Sequence[torch.Tensor], ways: Sequence[Sequence[Direction]], ticket: Ticket
    ) -> tuple[crossing.Ticket, torch.Tensor]:
        """Send recorded outputs that are to go beside a ticket that another party has sent.

        Args:
            tensors: the outputs.
            ways: the transfers of each of them.
            ticket: the other party's.

        Returns:
            What is under way, and its wire.
        """
        mask = ticket.context.get("attention_mask")
        encode, decode_gradient = self._sending(tensors, ways, ticket.kind, ticket.rows_B, mask, len(ticket.ways))
        # Observers look at smashed data alone.
        return crossing.send(tensors, encode, decode_gradient, lambda gradient: None)

    def _sending(
        self,
        tensors: Sequence[torch.Tensor],
        ways: Sequence[Sequence[Direction]],
        kind: CallKind,
        rows_B: torch.Tensor | None,
        mask: Any,
        first: int = 0,
    ) -> tuple[crossing.Encode, crossing.Decode]:
        """Return what encodes tensors, the first of which has the place ``first``, and what decodes their gradients."""

        def encode(place: int, tensor: torch.Tensor) -> Columns:
            context = self._context("activation", kind, tensor.shape, first + place, rows_B, mask)
            columns = self.codec.encode(tensor, context)
            self.count(kind, "activation", ways[place], sum(column.nbytes for column in columns.values()))
            return columns

        shapes = [tensor.shape for tensor in tensors]

        def decode_gradient(place: int, columns: Columns, dtype: torch.dtype) -> torch.Tensor:
            context = self._context("gradient", kind, shapes[place], first + place, rows_B, mask)
            return self.gradient_codec.decode(columns, dtype, context)

        return encode, decode_gradient

    def receive(self, ticket: Ticket, device: torch.device) -> tuple[Parcel, dict[str, LayerOutputs]]:
        """Receive a parcel on the side of the part above; each ticket once.

        Args:
            ticket: from `send`.
            device: where the part above lives.

        Returns:
            The parcel, and the recorded outputs of each part below.
        """
        kind, shapes, rows_B = ticket.kind, ticket.under_way.shapes, ticket.rows_B
        mask = ticket.context.get("attention_mask")

        def context(payload: str, place: int) -> CodecContext:
            return self._context(payload, kind, shapes[place], place, rows_B, mask)

        def decode(place: int, columns: Columns, dtype: torch.dtype) -> torch.Tensor:
            return self.codec.decode(columns, dtype, context("activation", place))

        def give_back(place: int, gradient: torch.Tensor) -> Columns:
            if place == 0:
                for observer in self.observers:
                    observer.on_send_gradient(self.route.cut, gradient)
            columns = self.gradient_codec.encode(gradient, context("gradient", place))
            way = [hop.back for hop in ticket.ways[place]]
            self.count(kind, "gradient", way, sum(column.nbytes for column in columns.values()))
            return columns

        received = crossing.receive(ticket.under_way, ticket.wire, device, decode, give_back)
        parcel = _parcel(received[0], {name: to_device(value, device) for name, value in ticket.context.items()})
        for observer in self.observers:
            observer.on_receive(self.route.cut, ticket.kind, _detached(parcel))
        arrived = {number: received[place] for number, place in ticket.places.items()}
        outputs = {
            name: _replaced(values, arrived) if name in self.route.layer_outputs_of else values
            for name, values in ticket.layer_outputs.items()
        }
        return parcel, outputs

    def _context(
        self, payload: str, kind: CallKind, shape: torch.Size, place: int, rows_B: torch.Tensor | None, mask: Any
    ) -> CodecContext:
        codec = self.codec if payload == PAYLOADS[0] else self.gradient_codec
        if type(codec) is Exact:
            # Making one takes as long as the rest of the crossing of a single token.
            return _NOT_READ
        draw = partial(self.generator, payload)
        return CodecContext(kind, self.route.name, payload, shape, place, draw, rows_B, mask)

    def _show_sent(self, parcel: Parcel, kind: CallKind) -> torch.Tensor | None:
        terms = []
        for observer in self.observers:
            observer.on_send(self.route.cut, kind, _detached(parcel))
            term = observer.loss_term(self.route.cut, parcel.hidden_BTD) if kind is CallKind.TRAIN else None
            terms += [] if term is None else [term]
        return torch.stack(terms).sum() if terms else None

    def count_inputs(self, kind: CallKind, context: Mapping[str, Any], labels_BT: torch.Tensor | None) -> None:
        """Count what goes straight from the data's owner to the party that needs it: mask, positions and labels.

        Args:
            kind: purpose of the call.
            context: mask, positions and others, by argument name; they count where the route sends them.
            labels_BT: the labels of the rows, shape (B, T), which count where the route sends them; None for none.
        """
        known = [labels_BT] if self.route.sends_labels and labels_BT is not None else []
        known += list(tensors_of(context)) if self.route.sends_context else []
        for tensor in known:
            self.count(kind, "activation", (Direction.UPLINK,), tensor.nbytes)

    def count(self, kind: CallKind, payload: str, way: Sequence[Direction], num_bytes: int) -> None:
        """Count a transfer at this cut.

        Args:
            kind: purpose of the call.
            payload: ``"activation"`` or ``"gradient"``.
            way: the transfers in order.
            num_bytes: size of the buffers in bytes.
        """
        for direction in way:
            self.meter.add(kind, self.route.name, payload, direction, num_bytes)


def pass_directly(parcel: Parcel, device: torch.device) -> Parcel:
    """Return a parcel with its tensors on the device of the part above, inside one party.

    Args:
        parcel: the parcel.
        device: where the part above lives.
    """
    context = {name: to_device(value, device) for name, value in parcel.context.items()}
    return _parcel(to_device(parcel.hidden_BTD, device), context)


def _parcel(hidden_BTD: torch.Tensor, context: dict[str, Any]) -> Parcel:
    mask, positions = context.pop("attention_mask", None), context.pop("position_ids", None)
    return Parcel(hidden_BTD, mask, positions, context)


def _detached(parcel: Parcel) -> Parcel:
    return Parcel(parcel.hidden_BTD.detach(), parcel.attention_mask, parcel.position_ids, parcel.others)


def _replaced(outputs: LayerOutputs, arrived: Mapping[int, torch.Tensor]) -> LayerOutputs:
    """Return recorded outputs with the received tensors in place of the sent ones."""
    return {name: tuple(arrived.get(id(value), value) for value in values) for name, values in outputs.items()}


def codec_states(boundaries: Iterable[Boundary]) -> dict[str, dict[str, Any]]:
    """Return what the codecs of some boundaries remember from call to call, by ``cut_1/activation`` and so on."""
    return {name: state for boundary in boundaries for name, state in boundary.codec_states().items()}
