"""One part of a model as its holder has it: loaded alone, and prepared for a run once a client has come."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from splitlearn.boundary import Boundary, BoundaryCodecs, find_routes
from splitlearn.checkpoint import LoadReceipt
from splitlearn.cut import PART_NAMES, Party, Placement
from splitlearn.loading import ModelRequest, OpenedModel
from splitlearn.memory import MemoryTracker
from splitlearn.model import SplitModel
from splitlearn.parties.plan import make_plan
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.randomness import NamedGenerators
from splitlearn.training import LocalOwner, SharedSteps, TrainingSettings, load_for_training, prepare_parts

CLIENT, SERVER = "client", "server"


@dataclass(frozen=True, eq=False)
class PreparedPart:
    """A part in a run.

    Attributes:
        part: the part, with its adapters and what is trained marked.
        owner: takes its steps.
        generators: what it draws from.
    """

    part: SplitModel
    owner: LocalOwner
    generators: NamedGenerators


class ServedPart:
    """A part that this process holds for others.

    Args:
        request: which model it is of, and where that is cut.
        name: the part's name.
        settings: how all parts of the model are trained.
        device: where it goes.
        verbose: print what is loaded and what it costs.

    Attributes:
        name: the part's name.
        plan: what a client must agree with.
        receipt: the cost of loading the part.
        device: where it lives.

    Raises:
        ValueError: the part cannot be held by another party, or the model cannot be trained so.
        CutError: the cut does not cut the model.
        FileNotFoundError: there is no such model.
    """

    def __init__(
        self,
        request: ModelRequest,
        name: str,
        settings: TrainingSettings | None = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.name = name
        self._settings = settings or TrainingSettings()
        placement = placement_around(name, device)
        opened = request.open([name])
        loaded = load_for_training(
            opened, self._settings.trained, placement, verbose=verbose, tracker=MemoryTracker(), shows_bars=False
        )
        (self._part,) = loaded.parts.values()
        self.receipt: LoadReceipt = loaded.receipt
        self.device = self._part.device
        self._opened: OpenedModel = opened
        self._routes = find_routes(placement)
        self.plan: pb.Plan = make_plan(opened, self._settings, name, self._part.blueprint.dtype)
        self.prepared: PreparedPart | None = None

    def make_boundaries(self, generators: NamedGenerators | None = None) -> dict[str, Boundary]:
        """Return the boundaries below and above the part, by ``cut_1`` and so on.

        Args:
            generators: what their codecs draw noise from; None makes boundaries that send everything as it is.
        """
        place = PART_NAMES.index(self.name)
        codecs = BoundaryCodecs() if generators is None else self._settings.codecs
        return {
            route.name: Boundary(route, None, *codecs.make(route.cut), generators)
            for route in self._routes
            if route.cut in (place, place + 1)
        }

    def prepare(self, generators: NamedGenerators) -> PreparedPart:
        """Give the part its adapters and its optimizer, once.

        Args:
            generators: what it draws from.

        Raises:
            ValueError: adapters or a choice of tensors do not fit the part.
        """
        if self.prepared is None:
            prepared = prepare_parts([self._part], self._settings, generators)
            owner = LocalOwner(prepared.parts, self._settings.optimization, generators)
            self.plan.model_digest = prepared.base_weights.get(self.name, "")
            self.prepared = PreparedPart(self._part, owner, generators)
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


def placement_around(name: str, device: str) -> Placement:
    """Return the placement in which a server holds just one part, as that server sees it.

    Raises:
        ValueError: the part cannot be held by another party than the data's owner.
    """
    if name not in PART_NAMES[1:]:
        raise ValueError(f"part is {name!r}; a server holds the trunk, since whoever has the text holds the bottom")
    others = tuple(part for part in PART_NAMES if part != name)
    parties = (Party(CLIENT, others, address="elsewhere:0"), Party(SERVER, (name,), {name: device}))
    return Placement(parties, data=CLIENT, labels=CLIENT if name != PART_NAMES[-1] else SERVER)


def scalar_wire(dtype: torch.dtype, requires_grad: bool) -> torch.Tensor:
    """Return the scalar by which the backward pass of a part ends here."""
    return torch.zeros((), dtype=dtype, requires_grad=requires_grad)
