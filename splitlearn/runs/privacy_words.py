"""What a record says of the privacy of examples, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PUBLIC_NOISE = "the noise follows from the run's public seed (privacy.reproducible_noise=true)"
# A record may be anybody's.
_MOST = 8


def privacy_in_words(privacy: Any, defence: Any) -> list[str]:
    """Return what epsilon is, or why none holds, and what noise on embeddings has changed, a sentence each.

    Args:
        privacy: as in ``summary.json``, which anybody may have written.
        defence: likewise.
    """
    sentences = []
    for name, of_kind in list(_mapping(privacy).items())[:_MOST]:
        sentences.append(_of_examples(f"{str(name).replace('_', '-')} examples", _mapping(of_kind)))
    dchi = _mapping(_mapping(defence).get("dchi"))
    if dchi.get("noise_is_secret") is False:
        sentences.append(f"the epsilon of defence.dchi does not hold: {_PUBLIC_NOISE}")
    if dchi.get("replaced_share") == 0:
        sentences.append("defence.dchi replaced no token: all was sent as without it, and a smaller epsilon would replace some")
    elif "replaced_share" in dchi:
        sentences.append(f"defence.dchi replaced {_number(dchi['replaced_share'], '.1%')} of the tokens by others")
    return sentences


def _of_examples(examples: str, privacy: Mapping[str, Any]) -> str:
    in_the_clear = privacy.get("in_the_clear")
    if isinstance(in_the_clear, list) and in_the_clear:
        shown = ", ".join(map(str, in_the_clear[:_MOST]))
        return f"{examples} have no epsilon: {shown} {'is' if len(in_the_clear) == 1 else 'are'} sent in the clear"
    # Records of older releases do not say; their noise followed from the seed.
    if not privacy.get("noise_is_secret"):
        epsilon = privacy.get("epsilon_if_secret", privacy.get("epsilon"))
        return f"{examples} have no epsilon: {_PUBLIC_NOISE}; were it a secret, epsilon would be {_at_delta(epsilon, privacy)}"
    return f"{examples}: epsilon {_at_delta(privacy.get('epsilon'), privacy)}, each against any other"


def _at_delta(epsilon: Any, privacy: Mapping[str, Any]) -> str:
    return f"{_number(epsilon, '.4g')} at delta {_number(privacy.get('delta'), 'g')}"


def _number(value: Any, form: str) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return format(value, form) if is_number else "unknown"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
