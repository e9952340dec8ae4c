"""How the parts are optimised: one AdamW with parameter groups for each part, and one schedule."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from transformers import get_scheduler

from splitlearn.cut import PART_NAMES, PartTraining
from splitlearn.model import SplitModel
from splitlearn.naming import named

SCHEDULES = ("constant_with_warmup", "cosine", "linear")


def unique_parameters(parts: Iterable[torch.nn.Module]) -> list[torch.nn.Parameter]:
    """Return the parameters of parts that require gradients, each once, for an optimizer of your own.

    A head that is tied to the embedding is one parameter of bottom and top. Two optimizers, or one that lists it twice, would
    step it twice.

    Args:
        parts: the parts that one optimizer steps.
    """
    trained = (parameter for part in parts for parameter in part.parameters() if parameter.requires_grad)
    return list(dict.fromkeys(trained))


@dataclass(frozen=True)
class PartOptimization:
    """Settings of one part that differ from the common ones.

    Attributes:
        train: what of the part is trained: True for its adapters, or everything where no part has any; False for nothing;
            or one of `PartTraining`. What is frozen keeps no gradients and no optimizer state.
        learning_rate: None takes the common one.
        weight_decay: None takes the common one.
    """

    train: bool | str = True
    learning_rate: float | None = None
    weight_decay: float | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether the settings leave nothing of the part to be trained."""
        return self.train in (False, PartTraining.FROZEN)


@dataclass(frozen=True)
class Optimization:
    """How the three parts are optimised.

    Attributes:
        learning_rate: peak learning rate.
        weight_decay: decay of matrices; vectors (norms, biases) are not decayed.
        betas: AdamW's two averaging factors.
        schedule: what follows the warm-up: ``"cosine"`` or ``"linear"`` decay to zero, or ``"constant_with_warmup"``.
        warmup_fraction: share of all steps over which the learning rate rises from zero, 0 to 1.
        parts: what differs for a part, by its name.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "cosine"
    warmup_fraction: float = 0.05
    parts: dict[str, PartOptimization] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Optimization:
        """Make it from plain values, for example a configuration file's.

        Raises:
            ValueError: an unknown setting or part, or a value out of range.
        """
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"{named(sorted(unknown)[0])} is not known; there are {', '.join(cls.__dataclass_fields__)}")
        chosen = dict(values)
        parts = dict(chosen.pop("parts", None) or {})
        for name, settings in parts.items():
            if name not in PART_NAMES:
                raise ValueError(f"{named('parts')} names {name!r}; the parts are {', '.join(PART_NAMES)}")
            unknown = set(settings) - set(PartOptimization.__dataclass_fields__)
            if unknown:
                raise ValueError(f"{named(f'parts.{name}.{min(unknown)}')} is not known")
            parts[name] = PartOptimization(**settings)
        betas = chosen.get("betas", cls.betas)
        if not isinstance(betas, (list, tuple)) or len(betas) != 2:
            raise ValueError(f"{named('betas')} is {betas!r}; give two numbers such as [0.9, 0.999]")
        return cls(**{**chosen, "betas": tuple(betas), "parts": parts})

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"{named('schedule')} is {self.schedule!r}; use one of {', '.join(SCHEDULES)}")
        for name, given in self.rates.items():
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
                    raise ValueError(f"{named(name)} is {value!r}; it must be a number that is not negative")
        if (
            isinstance(self.warmup_fraction, bool)
            or not isinstance(self.warmup_fraction, (int, float))
            or not (0 <= self.warmup_fraction <= 1)
        ):
            raise ValueError(f"{named('warmup_fraction')} is {self.warmup_fraction!r}; it must lie between 0 and 1")
        for name, settings in self.parts.items():
            if not isinstance(settings.train, bool) and settings.train not in tuple(PartTraining):
                raise ValueError(
                    f"{named(f'parts.{name}.train')} is {settings.train!r}; use true, false or one of {', '.join(PartTraining)}"
                )
        if all(self.of(name).is_frozen for name in PART_NAMES):
            raise ValueError(f"{named('parts')} freezes bottom, trunk and top, so there is nothing to train")

    def with_adapters(self, rate: float | None, adapted: Collection[str], least: float = 0.0) -> Optimization:
        """Return the same with the learning rate of adapters where a part with some has none of its own.

        Args:
            rate: the learning rate; None changes nothing.
            adapted: the parts that have adapters.
            least: what holds in its place if it is higher, the model's own rate.
        """
        trained = {name for name in PART_NAMES if not self.of(name).is_frozen}
        if rate is None or not trained.intersection(adapted):
            return self
        higher = max(rate, least)
        # A part without adapters is frozen, unless the settings name which of its tensors are trained.
        if all(name in adapted or self.of(name).train is True for name in trained):
            return replace(self, learning_rate=higher)
        parts = {name: self.of(name) for name in PART_NAMES}
        own = {
            name: replace(part, learning_rate=higher)
            for name, part in parts.items()
            if name in adapted and part.learning_rate is None
        }
        return replace(self, parts={**parts, **own})

    def of(self, name: str) -> PartOptimization:
        """Return what differs for the part ``name``."""
        return self.parts.get(name, PartOptimization())

    def to_plain(self) -> dict[str, Any]:
        """Return plain values from which `from_plain` makes the same."""
        return {**asdict(self), "betas": list(self.betas)}

    @property
    def rates(self) -> dict[str, Any]:
        """The settings that Lightning restores with the optimizer state, by name."""
        rates: dict[str, Any] = {name: getattr(self, name) for name in ("learning_rate", "weight_decay", "betas")}
        for part in PART_NAMES:
            for name in ("learning_rate", "weight_decay"):
                rates[f"parts.{part}.{name}"] = getattr(self.of(part), name)
        return rates

    def make_optimizer(
        self,
        parts: Sequence[SplitModel],
        leave_out: Collection[torch.nn.Parameter] = (),
        further: Iterable[Mapping[str, Any]] = (),
    ) -> torch.optim.AdamW:
        """Return one AdamW with two parameter groups, decayed and not, for each trained part.

        A parameter that two parts share is in the lower part's group.

        Args:
            parts: bottom, trunk and top.
            leave_out: parameters that somebody else updates.
            further: settings of groups without parameters, each with a ``name`` that begins with a part's.
        """
        groups: list[dict[str, Any]] = []
        seen = set(leave_out)
        for part in parts:
            settings = self.of(part.spec.name)
            decay = self.weight_decay if settings.weight_decay is None else settings.weight_decay
            rate = self.learning_rate if settings.learning_rate is None else settings.learning_rate
            own = [parameter for parameter in part.parameters() if parameter.requires_grad and parameter not in seen]
            seen.update(own)
            matrices = [parameter for parameter in own if parameter.ndim > 1]
            vectors = [parameter for parameter in own if parameter.ndim <= 1]
            for kind, parameters, weight_decay in (("", matrices, decay), ("/no_decay", vectors, 0.0)):
                if parameters:
                    name = f"{part.spec.name}{kind}"
                    groups.append({"params": parameters, "name": name, "lr": rate, "weight_decay": weight_decay})
        groups += [{"params": [], **group} for group in further]
        groups.sort(key=lambda group: PART_NAMES.index(group["name"].split("/")[0]))
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas)

    def make_schedule(self, optimizer: torch.optim.Optimizer, num_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        """Return the warm-up and decay over ``num_steps`` optimizer steps."""
        warmup = round(self.warmup_fraction * num_steps)
        return get_scheduler(self.schedule, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)
