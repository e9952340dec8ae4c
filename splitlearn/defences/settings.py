"""Which defences are used, read from plain values once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from splitlearn.naming import named


@dataclass(frozen=True)
class NoPeekSettings:
    """Settings of `NoPeek`.

    Attributes:
        weight: how much the distance correlation, from 0 to 1, counts beside the loss in nats.
        positions: tokens of a batch that it is computed from.
    """

    weight: float = 1.0
    positions: int = 256


@dataclass(frozen=True)
class AdversarialSettings:
    """Settings of `AdversarialTraining`.

    Attributes:
        weight: how much the inverter's loss counts against the training loss, both in nats for each token.
        positions: tokens of a batch that the inverter is trained on.
        width: numbers of its layer between.
        learning_rate: of its own optimizer.
    """

    weight: float = 0.1
    positions: int = 256
    width: int = 512
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class MidSettings:
    """Settings of `Bottleneck`.

    Attributes:
        weight: how much the divergence, in nats for each number, counts beside the loss.
        noise: standard deviation of the noise, where the spread of the smashed data at the beginning is 1.
    """

    weight: float = 0.1
    noise: float = 0.5


@dataclass(frozen=True)
class DchiSettings:
    """Settings of `EmbeddingNoise`.

    Attributes:
        epsilon: privacy of a token for each unit of distance between embeddings.
        nearest: whether noisy embeddings become those of the nearest token.
    """

    epsilon: float = 200.0
    nearest: bool = True


@dataclass(frozen=True)
class DefenceSettings:
    """The defences of a run; None and a weight of 0 leave one out.

    Attributes:
        nopeek: NoPeek.
        adversarial: adversarial training.
        mid: the variational information bottleneck.
        dchi: noise on embeddings.
    """

    nopeek: NoPeekSettings | None = None
    adversarial: AdversarialSettings | None = None
    mid: MidSettings | None = None
    dchi: DchiSettings | None = None

    @classmethod
    def from_plain(cls, values: Mapping[str, Any] | None) -> DefenceSettings:
        """Make settings from plain values, for example a configuration file's.

        Args:
            values: the settings of each defence by its name; None stands for no defence.

        Raises:
            ValueError: a defence or a setting is unknown, or out of range.
        """
        kinds = {"nopeek": NoPeekSettings, "adversarial": AdversarialSettings, "mid": MidSettings, "dchi": DchiSettings}
        made: dict[str, Any] = {}
        for name, settings in (values or {}).items():
            if name not in kinds:
                raise ValueError(f"{named(name)} is no defence; there are {', '.join(kinds)}")
            if settings is None:
                continue
            if not isinstance(settings, Mapping):
                raise ValueError(f"{named(name)} is {settings!r}; give its settings by name, or null to leave it out")
            own = _read(kinds[name], settings, name)
            made[name] = None if getattr(own, "weight", None) == 0 else own
        return cls(**made)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the defences in use."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    @property
    def after_training(self) -> DefenceSettings:
        """Those that act in evaluation and generation, too."""
        return DefenceSettings(mid=self.mid, dchi=self.dchi)

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of those that work by what the parts below the cut learn."""
        return tuple(name for name in self.names if name != "dchi")


def _read(kind: type[Any], values: Mapping[str, Any], defence: str) -> Any:
    known = {field.name: field for field in fields(kind)}
    for name, value in values.items():
        setting = named(f"{defence}.{name}")
        if name not in known:
            raise ValueError(f"{setting} is not known; {named(defence)} has {', '.join(known)}")
        _check(setting, value, str(known[name].type), least_is_zero=name == "weight")
    return kind(**values)


def _check(setting: str, value: Any, kind: str, least_is_zero: bool) -> None:
    if kind == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"{setting} is {value!r}; give true or false")
        return
    is_number = isinstance(value, (int, float) if kind == "float" else int) and not isinstance(value, bool)
    if is_number and (0 < value < math.inf or (least_is_zero and value == 0)):
        return
    wanted = "a positive whole number" if kind == "int" else "a number of at least 0" if least_is_zero else "a positive number"
    raise ValueError(f"{setting} is {value!r}; give {wanted}")
