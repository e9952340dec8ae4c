"""The threat model of a placement: what each party holds, knows, sends and receives, and what it could recover from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitlearn.cut.part_training import PartTraining
from splitlearn.cut.placement import CUTS, Placement
from splitlearn.cut.plan import PART_NAMES

# Every party follows the protocol, keeps all that it gets, and computes with it whatever it likes.
HONEST_BUT_CURIOUS = "honest-but-curious"
# Who makes the mean of several clients' ends is no party of the placement, whose names have no space.
AVERAGER = "whoever averages"
# An attacker is taken to know all this; docs/threat-model.md says why.
PUBLIC = ("base weights", "architecture and cut", "tokenizer", "settings, codecs and their parameters")


@dataclass(frozen=True)
class Exposure:
    """Data that reach a party from which it could recover text that is not its own.

    Attributes:
        party: the party that receives them.
        cut: where they cross.
        direction: ``"forward"`` (smashed data) or ``"backward"`` (their gradients).
        of: what could be recovered: ``"text"``, ``"labels"`` or ``"responses"``.
    """

    party: str
    cut: int
    direction: str
    of: str


def find_exposures(placement: Placement, trained: Mapping[str, PartTraining]) -> list[Exposure]:
    """Return the data from which a party could recover the text, labels or responses of another, in the order of the parts.

    Args:
        placement: who holds which part, text and labels.
        trained: which tensors of each part are trained, by the part's name.
    """
    exposures = []
    for cut in CUTS:
        if not placement.crosses(cut):
            continue
        below, above = _beside(placement, cut)
        if above != placement.data:
            exposures.append(Exposure(above, cut, "forward", "text"))
        if below != placement.labels and _gradients_cross(cut, trained):
            exposures.append(Exposure(below, cut, "backward", "labels"))
        if above == placement.labels and below != above:
            exposures.append(Exposure(below, cut, "forward", "responses"))
    return [exposure for exposure in exposures if exposure.party != placement.data]


def describe_threats(
    placement: Placement,
    trained: Mapping[str, PartTraining],
    is_averaged: bool = False,
    tells_tokens: bool | None = None,
) -> dict[str, Any]:
    """Return the threat model as plain values, for a run's summary.

    Args:
        placement: who holds which part, text and labels.
        trained: which tensors of each part are trained, by the part's name.
        is_averaged: whether what the data's owner trains of bottom and top becomes the mean over several such owners.
        tells_tokens: whether that has a row for each token; None takes it that only a part that is trained whole has.

    Returns:
        ``attacker``, ``public``, ``text`` and ``labels`` (the parties that have them), ``labels_sent_at`` (the cut at which
        they are sent in the clear, or None), ``parties`` with what each ``holds``, ``trains``, ``knows`` and ``receives``, and
        ``exposures`` as in `find_exposures`. Where parts are averaged, whoever does so is a party, too; its exposures have the
        direction ``"weights"`` and no cut.
    """
    parties = {
        party.name: {
            "holds": list(party.parts),
            "trains": [part for part in party.parts if _trains(part, trained)],
            "knows": _known_by(party.name, placement),
            "receives": _received_by(party.name, placement, trained),
        }
        for party in placement.parties
    }
    exposures: list[dict[str, Any]] = [vars(exposure).copy() for exposure in find_exposures(placement, trained)]
    if is_averaged:
        ends = [part for part in _ends(placement) if _trains(part, trained)]
        kinds = {part: "adapters" if trained[part] is PartTraining.ADAPTERS else "weights" for part in ends}
        received = [f"{kind} of the {part}" for part, kind in kinds.items()]
        parties[AVERAGER] = {"holds": [], "trains": [], "knows": [], "receives": received}
        if tells_tokens if tells_tokens is not None else any(trained[part] is PartTraining.FULL for part in ends):
            # The rows of the embedding, or of the head, that have changed most are those of the text's tokens.
            exposures.append({"party": AVERAGER, "cut": None, "direction": "weights", "of": "text"})
    labels_cut = placement.labels_cross()
    return {
        "attacker": HONEST_BUT_CURIOUS,
        "public": list(PUBLIC),
        "text": placement.data,
        "labels": placement.labels,
        "labels_sent_at": None if labels_cut is None else f"cut_{labels_cut}",
        "parties": parties,
        "exposures": exposures,
    }


def _known_by(party: str, placement: Placement) -> list[str]:
    owners = {"text": placement.data, "labels": placement.labels}
    # Labels of a language model are the text, so its owner has them even where another party computes the loss.
    return [what for what, owner in owners.items() if party in (owner, placement.data)]


def _received_by(party: str, placement: Placement, trained: Mapping[str, PartTraining]) -> list[str]:
    received = []
    for cut in CUTS:
        if not placement.crosses(cut):
            continue
        below, above = _beside(placement, cut)
        # Between two servers the data's owner relays, so it receives what passes in both directions.
        relays = placement.data == party and party not in (below, above)
        if party == above or relays:
            received += [f"{what} at cut {cut}" for what in placement.what_crosses(cut) if not relays or what == "smashed data"]
        if (party == below or relays) and _gradients_cross(cut, trained):
            received.append(f"gradients at cut {cut}")
    return received


def _ends(placement: Placement) -> list[str]:
    """Return which of bottom and top the owner of the data holds."""
    return [part for part in placement.party(placement.data).parts if part in (PART_NAMES[0], PART_NAMES[-1])]


def _gradients_cross(cut: int, trained: Mapping[str, PartTraining]) -> bool:
    """Whether something below a cut is trained, so that gradients are sent back over it."""
    return any(_trains(part, trained) for part in PART_NAMES[:cut])


def _trains(part: str, trained: Mapping[str, PartTraining]) -> bool:
    return part in trained and trained[part].trains_anything


def _beside(placement: Placement, cut: int) -> tuple[str, str]:
    return placement.holder(PART_NAMES[cut - 1]), placement.holder(PART_NAMES[cut])
