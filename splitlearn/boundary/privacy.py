"""The differential privacy of what a run has sent: epsilon of one example, over all that was sent of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.codecs import Chain, Codec, Gaussian
from splitlearn.boundary.codecs.gaussian import recorded
from splitlearn.boundary.meter import PAYLOADS
from splitlearn.boundary.routes import Direction

if TYPE_CHECKING:
    from splitlearn.boundary.boundary import Boundary

# A single order of Renyi's divergence is a valid bound; the best of many is a tight one. opacus' own range ends at 63.
_ORDERS = [1.01, 1.02, 1.05, *(1 + tenths / 10 for tenths in range(1, 110)), *range(12, 64), 96, 128, 256, 512, 1024]
# Replacing an example by another moves the clipped tensor by up to twice the clip.
_SENSITIVITY = 2.0


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


def epsilon_of(mechanisms: Sequence[Mechanism]) -> float:
    """Return the epsilon of one example that was sent through all the mechanisms, by opacus' accountant of Renyi divergences.

    Two examples are to be told apart: one is replaced by the other. Nothing is gained from the sampling of batches, since the
    receiver knows which example each row is of.

    Args:
        mechanisms: each with its number of releases.

    Returns:
        Epsilon at the largest of their deltas; 0 if nothing was sent.
    """
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [
        (mechanism.noise_multiplier / _SENSITIVITY, 1.0, mechanism.releases) for mechanism in mechanisms if mechanism.releases
    ]
    if not accountant.history:
        return 0.0
    with warnings.catch_warnings():
        # The first or last order is a valid bound, too.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(accountant.get_epsilon(max(mechanism.delta for mechanism in mechanisms), alphas=_ORDERS))


def describe_privacy(boundaries: Sequence[Boundary], kind: CallKind = CallKind.TRAIN) -> dict[str, Any] | None:
    """Return what is known of the privacy of the examples that were sent from the data's owner to a server.

    Args:
        boundaries: those at both cuts.
        kind: ``TRAIN`` for the training examples, ``EVALUATE`` for those held out.

    Returns:
        ``epsilon`` and ``delta``; ``mechanisms`` with their settings and releases; ``in_the_clear``, whatever else was sent up.
        Epsilon is None unless that is empty: a tensor without noise shows the example, whatever the others have. None if no
        codec clips.
    """
    mechanisms: list[Mechanism] = []
    in_the_clear: list[str] = []
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
            if gaussian.releases.most(recorded(kind)):
                in_the_clear.append(f"{name} of recorded outputs")
        in_the_clear += [f"{route.name}/labels"] if route.sends_labels else []
    if not mechanisms:
        return None
    epsilon = None if in_the_clear else epsilon_of(mechanisms)
    return {
        "unit": "one example: a row of a batch, replaced by any other",
        "accountant": "opacus RDPAccountant",
        "epsilon": epsilon,
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
