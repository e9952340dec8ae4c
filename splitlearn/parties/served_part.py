"""The parts of a model that one party holds: loaded alone, and prepared for a run once a client has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from splitlearn.boundary import Boundary, BoundaryCodecs, Route, find_routes, received_by
from splitlearn.checkpoint import LoadReceipt
from splitlearn.cut import PART_NAMES, Party, Placement
from splitlearn.loading import ModelRequest, OpenedModel
from splitlearn.memory import MemoryTracker
from splitlearn.model import SplitModel
from splitlearn.parties.plan import make_plan, title_of
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.randomness import NamedGenerators
from splitlearn.training import LocalOwner, LogitsLimit, SharedSteps, TrainingSettings, load_for_training, prepare_parts

CLIENT, SERVER = "client", "server"


@dataclass(frozen=True, eq=False)
class PreparedPart:
    """The held parts in a run.

    Attributes:
        parts: the parts in the order in which data pass them, with their adapters and what is trained marked.
        owner: takes their steps.
        generators: what they draw from.
        boundaries: those beside the parts, by ``cut_1`` and so on.
    """

    parts: tuple[SplitModel, ...]
    owner: LocalOwner
    generators: NamedGenerators
    boundaries: Mapping[str, Boundary]


class ServedPart:
    """A part that this process holds for others, or trunk and top together.

    Args:
        request: which model it is of, and where that is cut.
        name: the part's name; trunk and top as a sequence of names.
        settings: how all parts of the model are trained.
        device: where it goes.
        verbose: print what is loaded and what it costs.

    Attributes:
        names: the names of the parts, in the order in which data pass them.
        name: what messages call them after "the".
        plan: what a client must agree with.
        receipt: the cost of loading the parts.
        device: where they live.

    Raises:
        ValueError: the part cannot be held by another party, or the model cannot be trained so.
        CutError: the cut does not cut the model.
        FileNotFoundError: there is no such model.
    """

    def __init__(
        self,
        request: ModelRequest,
        name: str | Sequence[str],
        settings: TrainingSettings | None = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        placement = placement_around([name] if isinstance(name, str) else name, device)
        self.names = placement.party(SERVER).parts
        self.name = title_of(self.names)
        self._settings = settings or TrainingSettings()
        opened = request.open(list(self.names))
        loaded = load_for_training(
            opened, self._settings.trained, placement, verbose=verbose, tracker=MemoryTracker(), shows_bars=False
        )
        self._parts = tuple(loaded.parts[name] for name in self.names)
        self.receipt: LoadReceipt = loaded.receipt
        self.device = self._parts[0].device
        self._opened: OpenedModel = opened
        self._routes = find_routes(placement)
        dtypes = {part.spec.name: part.blueprint.dtype for part in self._parts}
        self.plan: pb.Plan = make_plan(opened, self._settings, dtypes)
        self.prepared: PreparedPart | None = None

    @property
    def max_logits_mib(self) -> LogitsLimit:
        """How large a batch's logits may become, in MiB; see `TopLoss`."""
        return self._settings.max_logits_mib

    def make_boundaries(self, generators: NamedGenerators | None = None) -> dict[str, Boundary]:
        """Return the boundaries below and above the parts, by ``cut_1`` and so on; there is none above a top.

        Args:
            generators: what their codecs draw noise from; None makes boundaries that send everything as it is.
        """
        beside = PART_NAMES.index(self.names[0]), PART_NAMES.index(self.names[-1]) + 1
        codecs = BoundaryCodecs() if generators is None else self._settings.codecs
        boundaries = {
            route.name: Boundary(route, None, *codecs.make(route.cut), generators)
            for route in self._routes
            if route.cut in beside
        }
        for boundary in boundaries.values():
            boundary.received = {name.split("/")[1] for name in received_by(self.names) if name.startswith(boundary.route.name)}
        return boundaries

    def prepare(self, generators: NamedGenerators) -> PreparedPart:
        """Give the parts their adapters and their optimizer, once.

        Args:
            generators: what they draw from.

        Raises:
            ValueError: adapters or a choice of tensors do not fit a part.
        """
        if self.prepared is None:
            prepared = prepare_parts(list(self._parts), self._settings, generators)
            boundaries = self.make_boundaries(generators)
            owner = LocalOwner(prepared.parts, self._settings.optimization, generators, list(boundaries.values()))
            self.plan.model_digest = ",".join(prepared.base_weights.get(name, "") for name in self.names)
            self.prepared = PreparedPart(self._parts, owner, generators, boundaries)
        return self.prepared

    def share_steps(self, num_steps: int) -> SharedSteps:
        """Return what takes the steps of several clients with the part, which is prepared.

        Args:
            num_steps: how many steps the part will take, for its schedule.

        Raises:
            RuntimeError: the part is not prepared.
        """
        if self.prepared is None:
            raise RuntimeError("the part is not prepared yet: call prepare() before")
        return SharedSteps(self.prepared.owner, self._settings.optimization, num_steps)


def placement_around(names: Sequence[str], device: str) -> Placement:
    """Return the placement in which a server holds just some parts, as that server sees it.

    Raises:
        ValueError: the parts cannot be held by another party than the data's owner.
    """
    held = tuple(part for part in PART_NAMES[1:] if part in names)
    if not held or sorted(held) != sorted(names):
        said = repr(names[0] if len(names) == 1 else list(names))
        raise ValueError(
            f"part is {said}; a server holds the trunk, the top or [trunk, top], since whoever has the text holds the bottom"
        )
    others = tuple(part for part in PART_NAMES if part not in held)
    parties = (Party(CLIENT, others, address="elsewhere:0"), Party(SERVER, held, dict.fromkeys(held, device)))
    return Placement(parties, data=CLIENT, labels=SERVER if PART_NAMES[-1] in held else CLIENT)


def boundaries_of_trial(part: str) -> tuple[Boundary, Boundary | None]:
    """Return boundaries below and above one part over which a trial of it passes as it is; None above a top.

    Args:
        part: its name.
    """
    place = PART_NAMES.index(part)
    below = Boundary(Route(place, sends_context=True))
    return below, None if part == PART_NAMES[-1] else Boundary(Route(place + 1, layer_outputs_of={part: ()}))


def scalar_wire(dtype: torch.dtype, requires_grad: bool) -> torch.Tensor:
    """Return the scalar by which the backward pass of a part ends here."""
    return torch.zeros((), dtype=dtype, requires_grad=requires_grad)
