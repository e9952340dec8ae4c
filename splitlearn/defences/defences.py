"""The defences of a run, on the parts and boundaries of its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from splitlearn.boundary import Boundary, Direction, Route
from splitlearn.cut import PART_NAMES, PartTraining
from splitlearn.defences.adversarial import AdversarialTraining
from splitlearn.defences.bottleneck import Bottleneck
from splitlearn.defences.defence import Defence
from splitlearn.defences.inputs import BottomInputs
from splitlearn.defences.nopeek import NoPeek
from splitlearn.defences.settings import DefenceSettings
from splitlearn.model import EMBEDDING_NOISE, ComposedCausalLM, EmbeddingNoise
from splitlearn.naming import named
from splitlearn.randomness import NamedGenerators, default_generators


class Defences:
    """What a run does so that what crosses the cut tells less.

    Args:
        settings: which defences, and how.
    """

    def __init__(self, settings: DefenceSettings) -> None:
        self.settings = settings
        self._own: list[Defence] = []
        self._pending: Mapping[str, Any] = {}
        self._generators: NamedGenerators | None = None
        self._embedding_noise: EmbeddingNoise | None = None

    def attach(self, model: ComposedCausalLM) -> None:
        """Put the defences on a model's boundaries and embedding.

        Args:
            model: the model; its bottom is here.

        Raises:
            ValueError: another party holds the bottom.
        """
        if not self.settings.names:
            return
        cut = find_uplink([boundary.route for boundary in model.boundaries])
        if cut is None:
            return
        if model.bottom.is_elsewhere:
            raise ValueError(f"{named(self.settings.names[0])} works where the bottom is, and another party holds it")
        dchi = self.settings.dchi
        if dchi is not None:
            model.embedding_noise = self._embedding_noise = EmbeddingNoise(dchi.epsilon, dchi.nearest)
            self._generators = model.generators
        if self.settings.trained:
            boundary = model.boundaries[cut - 1]
            self._own = self._make(model, boundary)
            boundary.observers += self._own
            self.load_state_dict(self._pending)

    def _make(self, model: ComposedCausalLM, boundary: Boundary) -> list[Defence]:
        settings, inputs = self.settings, BottomInputs(model.bottom)
        hidden_size = model.bottom.blueprint.config.get_text_config(decoder=True).hidden_size
        made: list[Defence] = []
        if (nopeek := settings.nopeek) is not None:
            made.append(NoPeek(inputs, _draw(model.generators, "nopeek"), nopeek.weight, nopeek.positions))
        if (mid := settings.mid) is not None:
            made.append(Bottleneck(boundary, inputs, hidden_size, mid.weight, mid.noise))
        if (adversarial := settings.adversarial) is not None:
            made.append(
                AdversarialTraining(
                    inputs,
                    _draw(model.generators, "adversarial"),
                    hidden_size,
                    weight=adversarial.weight,
                    positions=adversarial.positions,
                    width=adversarial.width,
                    learning_rate=adversarial.learning_rate,
                )
            )
        return made

    def step(self) -> None:
        """Step whatever the defences themselves train."""
        for defence in self._own:
            defence.step()

    @property
    def figures(self) -> dict[str, torch.Tensor]:
        """Scalars that the defences measured in the last batch, by the names under which they are logged."""
        found = {name: figure for defence in self._own for name, figure in defence.figures.items()}
        if self._embedding_noise is not None and (share := self._embedding_noise.last_replaced_share) is not None:
            found["train_replaced_tokens"] = share
        return found

    def measured(self) -> dict[str, Any]:
        """Return, as plain values, what is known of the defences only in training; for the run's record.

        Of those that act after training it is what they have measured. Of ``dchi`` it is whether its noise was a secret, and
        which share of the tokens of this process's training it has replaced by others.
        """
        found = {defence.name: defence.measured() for defence in self._own}
        if self._generators is not None:
            found["dchi"] = {"noise_is_secret": self._generators.is_secret(EMBEDDING_NOISE)}
        if self._embedding_noise is not None and (share := self._embedding_noise.replaced_share) is not None:
            found.setdefault("dchi", {})["replaced_share"] = share
        return {name: values for name, values in found.items() if values}

    def load_measured(self, values: Mapping[str, Any]) -> None:
        """Go on with what `measured` returned.

        Args:
            values: plain values of a record, which anybody may have written.

        Raises:
            ValueError: they are not what a defence measures.
        """
        for defence in self._own:
            if values.get(defence.name) is not None:
                defence.load_measured(values[defence.name])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each defence that has one, by its name."""
        states = {defence.name: defence.state_dict() for defence in self._own}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, now or once the defences are attached; a defence not in it begins anew.

        Raises:
            ValueError: a state is of another model or other settings.
        """
        self._pending = state
        for defence in self._own:
            if defence.name in state:
                defence.load_state_dict(state[defence.name])


def find_uplink(routes: Sequence[Route]) -> int | None:
    """Return the cut at which smashed data first leave the party that has the text; None if they never do.

    Args:
        routes: which way data pass each cut.
    """
    return next((route.cut for route in routes if route.hops[:1] == (Direction.UPLINK,)), None)


def refuse_idle(settings: DefenceSettings, routes: Sequence[Route], trained: Mapping[str, PartTraining]) -> None:
    """Refuse defences that would do nothing.

    Args:
        settings: the defences.
        routes: which way data pass each cut.
        trained: which tensors of each part are trained, by the part's name.

    Raises:
        ValueError: nothing leaves the party with the text, or a defence works by training and nothing below the cut is trained.
    """
    if not settings.names:
        return
    cut = find_uplink(routes)
    if cut is None:
        raise ValueError(
            f"{named(settings.names[0])} protects what leaves the party with the text, and nothing does in this placement; "
            "leave it out, or take a placement with a server"
        )
    below = PART_NAMES[:cut]
    if settings.trained and not any(trained[name].trains_anything for name in below):
        raise ValueError(
            f"{named(settings.trained[0])} works by what is learned below cut {cut}, and {' and '.join(below)} is frozen; "
            f"train it or give it adapters, or leave {named(settings.trained[0])} out"
        )


def _draw(generators: NamedGenerators | None, name: str) -> Any:
    return partial(_generator, generators, f"defence/{name}")


def _generator(generators: NamedGenerators | None, name: str, device: torch.device) -> torch.Generator:
    return default_generators(device)[-1] if generators is None else generators.generator(name, device)
