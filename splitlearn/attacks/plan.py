"""Which attacks are run, at which cuts and with how much: what plain settings mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from splitlearn.attacks.bag_of_tokens import AVERAGING
from splitlearn.attacks.budget import Budget
from splitlearn.attacks.clean_trained import TRAINED
from splitlearn.attacks.view import BACKWARD, FORWARD
from splitlearn.boundary import CUT_NAMES
from splitlearn.naming import named

PUBLIC, PRIVATE = "public", "private"
# What each attack looks at: smashed data, their gradients, or the gradients of the client's parts.
DIRECTIONS: dict[str, str] = {
    "nearest_embedding": FORWARD,
    "ridge": FORWARD,
    "mlp": FORWARD,
    "transformer": FORWARD,
    "prefix_search": FORWARD,
    "responses": FORWARD,
    "labels": BACKWARD,
    "labels_cg": BACKWARD,
    "bag_of_tokens": AVERAGING,
}


@dataclass(frozen=True)
class AttackPlan:
    """Which attacks are run, at which cuts and with how much.

    Args:
        attacks: their names, as in `DIRECTIONS`.
        cuts: 1, 2 or both.
        directions: what is looked at: ``"forward"``, ``"backward"``, ``"averaging"``. Attacks on others are left out.
        base_weights: ``"public"`` if the attacker has the base model's weights, else ``"private"``.
        tokens: tokens of a piece of text.
        auxiliary_pieces: the most pieces of the attacker's own texts.
        validation_pieces: the most further ones, by which it chooses settings.
        test_pieces: the most pieces that are attacked.
        prompts: pieces whose beginnings a prefix search looks for, and that responses are generated to.
        prompt_tokens: tokens of these beginnings, and of the responses.
        recording_seconds: the most seconds to record what crosses for the attacker's own texts; None has no limit.
        clean_trained: trained attacks that are run a second time, by an attacker who has trained on what would cross without
            codec, noise and defence; its figures stand in the details of the result.
        seed: draws texts, and seeds attacks and noise.
        budgets: the most that each attack may use, by its name; those that are not in it have no limit.

    Raises:
        ValueError: an attack, a cut or a direction is unknown, or none is left.
    """

    attacks: tuple[str, ...] = ("nearest_embedding", "ridge", "mlp", "prefix_search")
    cuts: tuple[int, ...] = (1,)
    directions: tuple[str, ...] = (FORWARD,)
    base_weights: str = PUBLIC
    tokens: int = 64
    auxiliary_pieces: int = 1600
    validation_pieces: int = 16
    test_pieces: int = 32
    prompts: int = 5
    prompt_tokens: int = 16
    recording_seconds: float | None = None
    clean_trained: tuple[str, ...] = ()
    seed: int = 0
    budgets: Mapping[str, Budget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_names("attacks", self.attacks, tuple(DIRECTIONS))
        _check_names("cuts", self.cuts, tuple(range(1, len(CUT_NAMES) + 1)))
        _check_names("directions", self.directions, (FORWARD, BACKWARD, AVERAGING))
        if self.base_weights not in (PUBLIC, PRIVATE):
            raise ValueError(f"{named('base_weights')} is {self.base_weights!r}; use {PUBLIC} or {PRIVATE}")
        for name in self.clean_trained:
            if name not in TRAINED:
                raise ValueError(
                    f"{named('clean_trained')} has {name!r}, which is none of the trained attacks {', '.join(TRAINED)}"
                )
        if self.clean_trained and self.base_weights != PUBLIC:
            raise ValueError(
                f"{named('clean_trained')} is [{', '.join(self.clean_trained)}], but undefended data are computed with the "
                f"base model's weights, and {named('base_weights')} is {self.base_weights}; leave it empty"
            )
        if not any(DIRECTIONS[attack] in self.directions for attack in self.attacks):
            wanted = ", ".join(sorted({DIRECTIONS[attack] for attack in self.attacks}))
            raise ValueError(
                f"{named('directions')} is [{', '.join(self.directions)}], and the attacks {', '.join(self.attacks)} look at "
                f"{wanted}; name one of these in {named('directions')}"
            )
        if self.prompt_tokens > self.tokens:
            raise ValueError(
                f"{named('prompt_tokens')} is {self.prompt_tokens}, more than the {self.tokens} tokens of a piece "
                f"({named('tokens')})"
            )

    @classmethod
    def from_plain(cls, settings: Mapping[str, Any]) -> AttackPlan:
        """Make a plan of plain values, as ``conf/attack`` has them.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        values = dict(settings)
        for name in ("attacks", "cuts", "directions", "clean_trained"):
            if isinstance(values.get(name), Sequence) and not isinstance(values[name], str):
                values[name] = tuple(dict.fromkeys(values[name]))
            elif name in values:
                values[name] = (values[name],)
        budgets = {name: Budget(**limits) for name, limits in (values.pop("budgets", None) or {}).items() if limits}
        return cls(**values, budgets=budgets)

    def of(self, direction: str) -> tuple[str, ...]:
        """Return the names of the attacks that look at one direction, if that is wanted.

        Args:
            direction: ``"forward"``, ``"backward"`` or ``"averaging"``.
        """
        if direction not in self.directions:
            return ()
        return tuple(attack for attack in self.attacks if DIRECTIONS[attack] == direction)

    def budget(self, attack: str) -> Budget:
        """Return the most that an attack may use.

        Args:
            attack: its name.
        """
        return self.budgets.get(attack, Budget())


def _check_names(setting: str, values: tuple[Any, ...], known: tuple[Any, ...]) -> None:
    shown = f"{named(setting)} is [{', '.join(map(str, values))}]"
    if not values:
        raise ValueError(f"{shown}; name at least one of {', '.join(map(str, known))}")
    for value in values:
        # 1 == True, but true is no cut.
        if isinstance(value, bool) or value not in known:
            raise ValueError(f"{shown}, and {value!r} is none of {', '.join(map(str, known))}")
