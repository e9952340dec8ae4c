"""The state of a part on its way between its holder and the client, and the gradients of an unfinished step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from splitlearn.parties.errors import PartyError
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.values import read_value, write_value
from splitlearn.training import GENERATORS_KEY, LocalOwner

STATE, GRADIENTS = "state", "gradients"


def write_state(owner: LocalOwner, what: str, tensors: dict[str, torch.Tensor]) -> pb.Value:
    """Return the state of a part as a message; its tensors are added to ``tensors``.

    Raises:
        PartyError: there is nothing of the name ``what``.
    """
    if what == GRADIENTS:
        return write_value(owner.gradients(), tensors)
    if what == STATE:
        return write_value(owner.state(), tensors)
    raise PartyError(f"{what[:80]!r} cannot be asked for; there are {STATE} and {GRADIENTS}")


def read_state(owner: LocalOwner, what: str, value: pb.Value, tensors: Mapping[str, torch.Tensor], sender: str) -> int | None:
    """Have a part go on from a state or from gradients that a client has sent.

    Args:
        owner: it holds the part.
        what: ``"state"`` or ``"gradients"``.
        value: from `write_state`.
        tensors: those of the message.
        sender: who sent it.

    Returns:
        How many steps it has taken then; None if gradients were sent.

    Raises:
        PartyError: what was sent is neither.
    """
    content = read_value(value, tensors, sender)
    if what == GRADIENTS and isinstance(content, dict):
        owner.load_gradients(content)
        return None
    own = owner.state()
    if what != STATE or not isinstance(content, dict) or content.keys() != own.keys():
        raise PartyError(f"{sender} sent {what[:80]!r}, which is no state of a part")
    generators = {**own[GENERATORS_KEY], "states": checked_generators(content[GENERATORS_KEY], sender)}
    try:
        owner.load_state({**content, GENERATORS_KEY: generators})
    except (TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise PartyError(f"{sender} sent a state that is no state of this part ({type(error).__name__}: {error})") from error
    return int(content["num_steps"])


def checked_generators(content: Any, sender: str) -> dict[str, dict[str, torch.Tensor]]:
    """Return the states of generators by name and kind of device; torch itself checks what is in them."""
    checked: dict[str, dict[str, torch.Tensor]] = {}
    for name, states in ((content or {}).get("states") or {}).items():
        for device, state in states.items():
            if device not in ("cpu", "cuda") or state.dtype != torch.uint8 or state.ndim != 1:
                raise PartyError(f"{sender} sent a state of random numbers that is none")
            # torch reads a state from the start of its memory, whatever the view.
            checked.setdefault(name, {})[device] = state.clone()
    return checked
