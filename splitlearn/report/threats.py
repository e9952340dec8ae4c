"""The threat model of a run's record in words, for its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from splitlearn.report.columns import plain_text
from splitlearn.report.records import as_mapping

# A record may be anybody's.
_MOST = 32


@dataclass
class ThreatWords:
    """The threat model as the page shows it.

    Attributes:
        sentences: on the attacker, on public knowledge and on labels.
        parties: one row each: name, and what it holds, trains, knows and receives.
        exposures: one sentence each.
    """

    sentences: list[str] = field(default_factory=list)
    parties: list[list[str]] = field(default_factory=list)
    exposures: list[str] = field(default_factory=list)


def threats_in_words(threat_model: Mapping[str, Any]) -> ThreatWords:
    """Return what a page says of a record's threat model; nothing if the record has none.

    Args:
        threat_model: as in ``summary.json``.
    """
    words = ThreatWords()
    if not threat_model:
        return words
    attacker = plain_text(threat_model.get("attacker"))
    words.sentences.append(
        f"Every party is taken to be {attacker}: it follows the protocol and computes with what it gets whatever it likes."
    )
    words.sentences.append(f"Taken to be public: {_listed(threat_model.get('public'))}.")
    text, labels = (plain_text(threat_model.get(key)) for key in ("text", "labels"))
    sent = threat_model.get("labels_sent_at")
    ending = "; they leave no party" if sent is None else f"; they are sent in the clear at {_cut(sent)}"
    words.sentences.append(f"The text is with {text}, the labels are with {labels}{ending}.")
    for name, party in list(as_mapping(threat_model.get("parties")).items())[:_MOST]:
        cells = [_listed(as_mapping(party).get(key)) for key in ("holds", "trains", "knows", "receives")]
        words.parties.append([plain_text(name), *cells])
    exposures = threat_model.get("exposures")
    for exposure in exposures[:_MOST] if isinstance(exposures, list) else []:
        party, cut, direction, of = (plain_text(as_mapping(exposure).get(key)) for key in ("party", "cut", "direction", "of"))
        what = {"backward": f"the gradients at cut {cut}", "weights": "the weights that it averages"}
        words.exposures.append(f"{party} could recover {of} from {what.get(direction, f'the smashed data at cut {cut}')}.")
    return words


def _listed(values: Any) -> str:
    shown = [plain_text(value) for value in values[:_MOST]] if isinstance(values, list) else []
    return ", ".join(shown) or "nothing"


def _cut(name: Any) -> str:
    return plain_text(name).replace("_", " ")
