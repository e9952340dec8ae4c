"""The differential privacy of what a run has sent: epsilon of one example, over all that was sent of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.codecs import Chain, Codec, Gaussian
from splitlearn.boundary.codecs.gaussian import recorded
from splitlearn.boundary.meter import PAYLOADS
from splitlearn.boundary.routes import Direction, Route
from splitlearn.naming import named

if TYPE_CHECKING:
    from splitlearn.boundary.boundary import Boundary
    from splitlearn.boundary.settings import BoundaryCodecs

# A single order of Renyi's divergence is a valid bound; the best of many is a tight one. opacus' own range ends at 63.
_ORDERS = [1.01, 1.02, 1.05, *(1 + tenths / 10 for tenths in range(1, 110)), *range(12, 64), 96, 128, 256, 512, 1024]
# Replacing an example by another moves the clipped tensor by up to twice the clip.
_SENSITIVITY = 2.0
RDP, PRV = "rdp", "prv"
ACCOUNTANTS = {RDP: "opacus RDPAccountant", PRV: "opacus PRVAccountant"}
# Above it opacus' numbers for privacy loss random variables overflow, and take minutes before that.
_MOST_BY_PRV = 250.0


@dataclass(frozen=True)
class PrivacySettings:
    """How a run makes and accounts for noise of which an epsilon is claimed.

    Args:
        reproducible_noise: have it follow from the run's seed, as all other noise does. Whoever knows the seed can then take it
            off, so no epsilon holds. False has it follow from a secret key of the system's random numbers.
        accountant: by which of opacus' accountants what is sent is composed: ``"rdp"`` (Renyi divergences) or ``"prv"``
            (privacy loss random variables), which is tighter.

    Raises:
        ValueError: a setting is out of range.
    """

    reproducible_noise: bool = False
    accountant: str = RDP

    def __post_init__(self) -> None:
        if not isinstance(self.reproducible_noise, bool):
            raise ValueError(f"{named('reproducible_noise')} is {self.reproducible_noise!r}; give true or false")
        if self.accountant not in ACCOUNTANTS:
            raise ValueError(f"{named('accountant')} is {self.accountant!r}; use {' or '.join(ACCOUNTANTS)}")

    @classmethod
    def from_plain(cls, values: Mapping[str, Any] | None) -> PrivacySettings:
        """Make them of plain values, as ``privacy`` in ``conf/train.yaml`` has them; None is the default.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        known = ("reproducible_noise", "accountant")
        for name in values or {}:
            if name not in known:
                raise ValueError(f"{named(name)} is no setting; there are {' and '.join(known)}")
        return cls(**(values or {}))


@dataclass(frozen=True)
class Mechanism:
    """The Gaussian mechanism at one cut, in one direction.

    Attributes:
        name: cut and payload, such as ``"cut_1/activation"``.
        clip: the largest norm of an example.
        noise_multiplier: standard deviation of the noise as a multiple of ``clip``.
        delta: the delta for which epsilon is given.
        releases: how often an example was sent at most.
    """

    name: str
    clip: float
    noise_multiplier: float
    delta: float
    releases: int


def epsilon_of(mechanisms: Sequence[Mechanism], accountant: str = RDP) -> tuple[float, str]:
    """Return the epsilon of one example that was sent through all the mechanisms, and which accountant says so.

    Two examples are to be told apart: one is replaced by the other. Nothing is gained from the sampling of batches, since the
    receiver knows which example each row is of.

    Args:
        mechanisms: each with its number of releases.
        accountant: ``"rdp"`` or ``"prv"``. Where epsilon is too large for the latter, the former's stands, which is a valid
            bound too.

    Returns:
        Epsilon at the largest of their deltas, 0 if nothing was sent; and the accountant in words.
    """
    from opacus.accountants import PRVAccountant, RDPAccountant

    rdp, prv = RDPAccountant(), PRVAccountant()
    history = [
        (mechanism.noise_multiplier / _SENSITIVITY, 1.0, mechanism.releases) for mechanism in mechanisms if mechanism.releases
    ]
    if not history:
        return 0.0, ACCOUNTANTS[accountant]
    rdp.history, prv.history = history, history
    delta = max(mechanism.delta for mechanism in mechanisms)
    with warnings.catch_warnings():
        # The first or last order is a valid bound, too.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        # A sampling rate of 1 has it divide by zero on the way, and drop the result.
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        epsilon = float(rdp.get_epsilon(delta, alphas=_ORDERS))
        if accountant == RDP:
            return epsilon, ACCOUNTANTS[RDP]
        tight = float(prv.get_epsilon(delta)) if epsilon <= _MOST_BY_PRV else math.nan
    if math.isfinite(tight):
        return tight, ACCOUNTANTS[PRV]
    return epsilon, f"{ACCOUNTANTS[RDP]}, since epsilon is too large for {ACCOUNTANTS[PRV]}"


def noise_with_epsilon(codecs: BoundaryCodecs, routes: Sequence[Route]) -> frozenset[str]:
    """Return the generators of noise for which an epsilon is claimed: the data's owner clips and sends, to a server.

    Args:
        codecs: how what crosses the cuts is sent.
        routes: which way data pass each cut.

    Returns:
        Names such as ``"cut_1/activation"``.
    """
    names = set()
    for route in routes:
        activations, gradients = (accounted(codec) is not None for codec in codecs.make(route.cut))
        names |= {f"{route.name}/activation"} if activations and route.hops[:1] == (Direction.UPLINK,) else set()
        # Gradients go from the end of the route back to its beginning.
        names |= {f"{route.name}/gradient"} if gradients and route.hops[-1:] == (Direction.DOWNLINK,) else set()
    return frozenset(names)


def describe_privacy(
    boundaries: Sequence[Boundary], kind: CallKind = CallKind.TRAIN, accountant: str = RDP
) -> dict[str, Any] | None:
    """Return what is known of the privacy of the examples that were sent from the data's owner to a server.

    Args:
        boundaries: those at both cuts.
        kind: ``TRAIN`` for the training examples, ``EVALUATE`` for those held out.
        accountant: ``"rdp"`` or ``"prv"``.

    Returns:
        ``epsilon`` and ``delta``; ``mechanisms`` with their settings and releases; ``in_the_clear``, whatever else was sent up;
        and ``noise_is_secret``, whether all noise follows from a secret key. Epsilon is None unless nothing is in the clear and
        the noise is secret: a tensor without noise, or with noise that can be taken off, shows the example. Then
        ``epsilon_if_secret`` is what it would be but for the noise's seed. None if no codec clips.
    """
    mechanisms: list[Mechanism] = []
    in_the_clear: list[str] = []
    is_secret = True
    for boundary in boundaries:
        route = boundary.route
        sent = boundary.meter.totals(kind)[route.name]
        for payload, codec in zip(PAYLOADS, (boundary.codec, boundary.gradient_codec), strict=True):
            name, gaussian = f"{route.name}/{payload}", accounted(codec)
            if not sent[f"{payload}_{Direction.UPLINK}_bytes"]:
                continue
            if gaussian is None:
                in_the_clear.append(name)
                continue
            mechanisms.append(_mechanism(name, gaussian, kind))
            is_secret = is_secret and boundary.has_secret_noise(payload)
            if gaussian.releases.most(recorded(kind)):
                in_the_clear.append(f"{name} of recorded outputs")
        in_the_clear += [f"{route.name}/labels"] if route.sends_labels else []
    if not mechanisms:
        return None
    epsilon, by = (None, ACCOUNTANTS[accountant]) if in_the_clear else epsilon_of(mechanisms, accountant)
    return {
        "unit": "one example: a row of a batch, replaced by any other",
        "accountant": by,
        "epsilon": epsilon if is_secret else None,
        "epsilon_if_secret": epsilon,
        "noise_is_secret": is_secret,
        "delta": max(mechanism.delta for mechanism in mechanisms),
        "mechanisms": [asdict(mechanism) for mechanism in mechanisms],
        "in_the_clear": in_the_clear,
    }


def accounted(codec: Codec) -> Gaussian | None:
    """Return the clipping Gaussian codec with which a codec begins; whatever follows only sees noisy numbers.

    Args:
        codec: the codec of a boundary.

    Returns:
        None if there is none, or something is sent before it that depends on the example.
    """
    first = next(_in_order(codec))
    return first if isinstance(first, Gaussian) and first.clip is not None else None


def _in_order(codec: Codec) -> Iterator[Codec]:
    if isinstance(codec, Chain):
        for member in codec.codecs:
            yield from _in_order(member)
    else:
        yield codec


def _mechanism(name: str, gaussian: Gaussian, kind: CallKind) -> Mechanism:
    clip, noise_multiplier = float(gaussian.clip or 0), float(gaussian.noise_multiplier or 0)
    return Mechanism(name, clip, noise_multiplier, gaussian.delta, gaussian.releases.most(kind.value))
