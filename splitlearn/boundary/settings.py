"""Which codec encodes what crosses each cut, read from plain values once."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from splitlearn.boundary.codecs import Chain, Codec, ErrorFeedback, Reuse, codec_class
from splitlearn.boundary.meter import PAYLOADS
from splitlearn.boundary.routes import Route
from splitlearn.boundary.shares import received_by, sent_by
from splitlearn.cut import CUTS
from splitlearn.naming import named, naming_group

# Smashed data go forward, their gradients backward.
WAYS = ("forward", "backward")
_CUT_NAMES = tuple(f"cut_{cut}" for cut in CUTS)
_CODEC, _ERROR_FEEDBACK = "codec", "error_feedback"


@dataclass(frozen=True)
class CodecSettings:
    """The codec of one direction, as plain values that can be compared.

    Attributes:
        steps: names of codecs, each with its settings, in the order in which they encode.
        error_feedback: whether the error of each example is added to what is sent of it in the next epoch.
    """

    steps: tuple[tuple[str, Mapping[str, Any]], ...] = (("exact", {}),)
    error_feedback: bool = False

    @classmethod
    def from_plain(cls, value: Any, name: str) -> CodecSettings:
        """Make settings from plain values, and see that they make a codec.

        Args:
            value: a codec's name; a mapping with its name as ``codec`` and its settings, and perhaps ``error_feedback``; or a
                list of these, a composition.
            name: the setting that they are of, for messages.

        Raises:
            ValueError: there is no such codec, or a setting is unknown or out of range.
        """
        error_feedback: Any = False
        if isinstance(value, Mapping):
            value = dict(value)
            error_feedback = value.pop(_ERROR_FEEDBACK, False)
            if not isinstance(error_feedback, bool):
                raise ValueError(f"{named(f'{name}.{_ERROR_FEEDBACK}')} is {error_feedback!r}; give true or false")
            value = _composition(value, name)
        steps = value if isinstance(value, (list, tuple)) else [value]
        if not steps:
            raise ValueError(f"{named(name)} is an empty list; give at least one codec, such as exact")
        names = [name] if len(steps) == 1 else [f"{name}.{number}" for number in range(len(steps))]
        made = cls(tuple(_step(step, own) for step, own in zip(steps, names, strict=True)), error_feedback)
        made.make(name)
        return made

    def make(self, name: str = _CODEC) -> Codec:
        """Return a codec without state.

        Args:
            name: the setting that it is of, for messages.

        Raises:
            ValueError: a setting is out of range, or two codecs cannot follow one another.
        """
        codecs = []
        for number, (codec, settings) in enumerate(self.steps):
            with naming_group(name if len(self.steps) == 1 else f"{name}.{number}"):
                codecs.append(codec_class(codec)(**settings))
        try:
            whole = _composed(codecs)
        except ValueError as error:
            raise ValueError(f"{named(name)} cannot be used: {error}") from error
        with naming_group(name):
            return ErrorFeedback(whole) if self.error_feedback else whole

    def __str__(self) -> str:
        shown = [(codec, ", ".join(f"{key}={value}" for key, value in settings.items())) for codec, settings in self.steps]
        names = ", then ".join(f"{codec} ({settings})" if settings else codec for codec, settings in shown)
        return f"{names}, with error feedback" if self.error_feedback else names


@dataclass(frozen=True)
class BoundaryCodecs:
    """The codecs of both cuts.

    Attributes:
        codecs: for each cut the codecs of smashed data and of their gradients.
        own: the names of the settings that are of one cut alone, such as ``cut_1.forward``.
    """

    codecs: Mapping[int, Mapping[str, CodecSettings]] = field(
        default_factory=lambda: {cut: {way: CodecSettings() for way in WAYS} for cut in CUTS}
    )
    own: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any] | str | None) -> BoundaryCodecs:
        """Make settings from plain values, for example a configuration file's.

        Args:
            values: ``forward`` and ``backward``, each as `CodecSettings.from_plain` takes it; ``cut_1`` and ``cut_2``, each
                with ``forward`` and ``backward`` for that cut alone, where None is as for both. A codec's name alone stands for
                both directions; None sends everything as it is.

        Raises:
            ValueError: there is no such codec, or a setting is unknown or out of range.
        """
        if values is None:
            return cls()
        if isinstance(values, str):
            values = dict.fromkeys(WAYS, values)
        _refuse_unknown(values, (*WAYS, *_CUT_NAMES), "")
        codecs: dict[int, dict[str, CodecSettings]] = {}
        own: list[str] = []
        for cut, cut_name in zip(CUTS, _CUT_NAMES, strict=True):
            of_cut = values.get(cut_name) or {}
            if not isinstance(of_cut, Mapping):
                raise ValueError(
                    f"{named(cut_name)} is {of_cut!r}; give {' and '.join(WAYS)}, such as {named(cut_name)}.forward=int8"
                )
            _refuse_unknown(of_cut, WAYS, f"{cut_name}.")
            codecs[cut] = {}
            for way in WAYS:
                is_own = of_cut.get(way) is not None
                own += [f"{cut_name}.{way}"] if is_own else []
                value = of_cut[way] if is_own else values.get(way)
                name = f"{cut_name}.{way}" if is_own else way
                codecs[cut][way] = CodecSettings() if value is None else CodecSettings.from_plain(value, name)
        return cls(codecs, tuple(own))

    @property
    def is_exact(self) -> bool:
        """Whether everything is sent as it is."""
        return self == BoundaryCodecs()

    def make(self, cut: int) -> tuple[Codec, Codec]:
        """Return the codecs of a cut, without state: of smashed data, and of their gradients.

        Args:
            cut: 1 or 2.
        """
        forward, backward = (self.codecs[cut][way].make() for way in WAYS)
        return forward, backward

    def share_of(self, parts: Collection[str], states: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the holder of some parts needs of what codecs remember.

        That is all of what it sends itself, and of what it receives what receivers remember. The rest would tell it what the
        codecs have kept from it.

        Args:
            parts: the names of the parts.
            states: by ``cut_1/activation`` and so on.
        """
        share = {name: states.get(name) for name in sent_by(parts)}
        for cut in CUTS:
            for payload, codec in zip(PAYLOADS, self.make(cut), strict=True):
                name = f"cut_{cut}/{payload}"
                if name in received_by(parts):
                    share[name] = codec.receiver_state(states.get(name) or {})
        return {name: state for name, state in share.items() if state}

    def refuse_unused(self, routes: Sequence[Route]) -> None:
        """Refuse codecs for cuts that nothing crosses.

        Args:
            routes: which way data pass each cut.

        Raises:
            ValueError: there is one.
        """
        idle = [route for route in routes if not route.is_crossed]
        if len(idle) == len(routes) and not self.is_exact:
            way = next(way for way in WAYS for cut in CUTS if self.codecs[cut][way] != CodecSettings())
            codec = next(self.codecs[cut][way] for cut in CUTS if self.codecs[cut][way] != CodecSettings())
            raise ValueError(
                f"{named(way)} is {codec}, but one party holds all parts, so nothing is sent; leave the codecs exact"
            )
        for name in self.own:
            for route in idle:
                if name.startswith(f"{route.name}."):
                    raise ValueError(
                        f"{named(name)} is set, but one party holds both sides of cut {route.cut}, so nothing crosses it"
                    )

    def needing_examples(self) -> str | None:
        """Return the first codec that needs ids of the examples, in words with its cut and direction; None if none does."""
        for cut, of_cut in self.codecs.items():
            for way, settings in of_cut.items():
                if settings.make().needs_examples:
                    return f"the codec {settings} ({way} at cut {cut})"
        return None

    def differences(self, before: BoundaryCodecs) -> list[str]:
        """Return how earlier codecs differ from these, in words.

        Args:
            before: the earlier ones.
        """
        return [
            f"{named(f'cut_{cut}.{way}')} was {before.codecs[cut][way]} and is {of_cut[way]}"
            for cut, of_cut in self.codecs.items()
            for way in WAYS
            if before.codecs[cut][way] != of_cut[way]
        ]

    def to_dict(self) -> dict[str, dict[str, str]]:
        """Return the codecs in words, by cut and direction."""
        return {f"cut_{cut}": {way: str(of_cut[way]) for way in WAYS} for cut, of_cut in self.codecs.items()}


def _composed(codecs: Sequence[Codec]) -> Codec:
    first, *following = codecs
    if not following:
        return first
    if isinstance(first, Reuse):
        # Both ends keep what the receiver gets, which the codecs that follow decide.
        return first.around(_composed(following))
    return Chain(codecs)


def _composition(value: dict[str, Any], name: str) -> Any:
    """Return the list that a mapping with a list of codecs stands for; other mappings as they are."""
    codec = value.get(_CODEC)
    if not isinstance(codec, (list, tuple)):
        return value
    more = [key for key in value if key != _CODEC]
    if more:
        raise ValueError(
            f"{named(f'{name}.{more[0]}')} stands beside a list of codecs; give it to the codec of the list that takes it"
        )
    return list(codec)


def _step(value: Any, name: str) -> tuple[str, Mapping[str, Any]]:
    """Return a codec's name and settings."""
    settings = dict(value) if isinstance(value, Mapping) else {_CODEC: value}
    codec = settings.pop(_CODEC, None)
    if not isinstance(codec, str):
        shown = value if codec is None else codec
        raise ValueError(
            f"{named(name)} is {shown!r}; give a codec's name, such as int8, or its settings, such as "
            "{codec: int4, group_size: 32}, or a list of these"
        )
    try:
        known = list(inspect.signature(codec_class(codec)).parameters)
    except ValueError as error:
        raise ValueError(f"{named(name)} is {codec!r}: {error}") from error
    if _ERROR_FEEDBACK in settings:
        raise ValueError(
            f"{named(f'{name}.{_ERROR_FEEDBACK}')} is of one codec of a composition, but error feedback is of the whole: write "
            "{codec: [...], error_feedback: true}"
        )
    for key in settings:
        if key not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{named(f'{name}.{key}')} is no setting of the codec {codec}; {there}")
    return codec, settings


def _refuse_unknown(values: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    for key in values:
        if key not in known:
            raise ValueError(f"{named(f'{prefix}{key}')} is not known; there are {', '.join(known)}")
