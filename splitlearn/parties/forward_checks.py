"""What a server accepts of a forward call, checked before the part runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig

from splitlearn.boundary import CallKind
from splitlearn.naming import named
from splitlearn.parties.errors import PartyError
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.values import read_value
from splitlearn.parties.wire import Message
from splitlearn.parties.wire_checks import WireLimits

# Arguments of transformers' models that say nothing of files or code.
_ARGUMENTS = ("output_router_logits", "output_hidden_states", "output_attentions", "return_dict")
_CONTEXT = ("attention_mask", "position_ids", "cache_position", "token_type_ids")
_AUTOCAST = ("", "bfloat16", "float16")
# A label that counts for nothing.
_NOT_SUPERVISED = -100
# The argument of a top for how many of the last positions logits are wanted; 0 for all.
_LOGITS_TO_KEEP = "logits_to_keep"


@dataclass(frozen=True)
class ServerLimits:
    """What a client may ask for.

    Args:
        max_rows: rows of a batch.
        max_tokens: tokens of a row.
        max_pending: forward calls that wait for their backward; each keeps its graph.
        max_sessions: generations under way; each keeps its cache.
        session_seconds: a client that was not heard of for so long is forgotten.
        max_state_bytes: of a state that a client sends to go on with, in all of its pieces.
        checks_finite: refuse numbers that are not finite.
        wire: the largest messages.

    Raises:
        ValueError: a limit is not positive.
    """

    max_rows: int = 1024
    max_tokens: int = 32_768
    max_pending: int = 64
    max_sessions: int = 16
    session_seconds: float = 600.0
    max_state_bytes: int = 1 << 34
    checks_finite: bool = True
    wire: WireLimits = field(default_factory=WireLimits)

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_tokens", "max_pending", "max_sessions", "session_seconds", "max_state_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{named(name)} is {getattr(self, name)}; use a number above 0")

    def to_message(self) -> pb.Limits:
        """Return them as a client is told them."""
        return pb.Limits(
            max_message_bytes=self.wire.max_message_bytes,
            max_pending=self.max_pending,
            max_sessions=self.max_sessions,
            max_rows=self.max_rows,
            max_tokens=self.max_tokens,
            session_seconds=self.session_seconds,
            max_state_bytes=self.max_state_bytes,
            max_tensors=self.wire.max_tensors,
        )


def check_forward(told: pb.Forward, num_pending: int, limits: ServerLimits, client: str) -> CallKind:
    """Return the purpose of a forward call.

    Args:
        told: the call.
        num_pending: how many calls wait for their backward already.
        limits: what is allowed.
        client: who asks.

    Raises:
        PartyError: the call is malformed, or too many wait.
    """
    if told.kind not in tuple(CallKind):
        raise PartyError(f"{client} calls for {told.kind[:80]!r}; use one of {', '.join(CallKind)}")
    if not told.inputs:
        raise PartyError(f"{client} sent a forward call without smashed data")
    if told.autocast not in _AUTOCAST:
        raise PartyError(f"{client} computes in {told.autocast[:80]!r}; use bfloat16, float16 or neither")
    if told.keeps_graph and num_pending >= limits.max_pending:
        raise PartyError(
            f"{num_pending} forward calls of {client} wait for their backward pass, and at most {limits.max_pending} may "
            f"({named('max_pending')}); call backward, or compute without gradients",
            pb.ERROR_KIND_LIMIT,
        )
    return CallKind(told.kind)


def check_shape(shape: torch.Size, config: PreTrainedConfig, limits: ServerLimits, client: str) -> None:
    """Refuse smashed data of another model, or more of them than is allowed.

    Raises:
        PartyError: the shape is wrong.
    """
    hidden_size = config.get_text_config(decoder=True).hidden_size
    if len(shape) < 3 or shape[-1] != hidden_size:
        raise PartyError(
            f"{client} sent smashed data of the shape {tuple(shape)}, but this model's are (rows, tokens, {hidden_size})"
        )
    rows, tokens = shape[:2]
    if not 0 < rows <= limits.max_rows or not 0 < tokens <= limits.max_tokens:
        raise PartyError(
            f"{client} sent {rows} rows of {tokens} tokens; this server takes at most {limits.max_rows} rows of "
            f"{limits.max_tokens} ({named('max_rows')}, {named('max_tokens')})",
            pb.ERROR_KIND_LIMIT,
        )


def checked_arguments(told: pb.Forward, client: str) -> dict[str, Any]:
    """Return the plain arguments of a forward call.

    Raises:
        PartyError: one is not allowed.
    """
    arguments = read_value(told.arguments, {}, client) or {}
    for name, value in arguments.items():
        if name == _LOGITS_TO_KEEP and type(value) is int and value >= 0:
            continue
        if name not in _ARGUMENTS or not isinstance(value, bool):
            raise PartyError(f"{client} sent the argument {name[:80]!r}; a server takes {', '.join(_ARGUMENTS)}")
    return dict(arguments)


def checked_labels(
    told: pb.Forward, tensors: Mapping[str, torch.Tensor], config: PreTrainedConfig, client: str
) -> torch.Tensor | None:
    """Return the labels of a forward call, shape (B, T); None if it has none.

    Args:
        told: the call.
        tensors: those of the message.
        config: the unsplit model's configuration.
        client: who asks.

    Raises:
        PartyError: they are missing, do not fit the smashed data, or are no tokens of the model.
    """
    if not told.has_labels:
        return None
    labels_BT, shape = tensors.get("labels"), tuple(told.inputs[0].shape[:2])
    if labels_BT is None or labels_BT.dtype != torch.int64 or tuple(labels_BT.shape) != shape:
        raise PartyError(f"{client} sent no labels of the shape {shape} in int64, although its call says so")
    most = config.get_text_config(decoder=True).vocab_size
    # On a GPU an index out of range would end the whole process.
    wrong = labels_BT[((labels_BT < 0) & (labels_BT != _NOT_SUPERVISED)) | (labels_BT >= most)]
    if wrong.numel():
        raise PartyError(
            f"{client} sent the label {int(wrong[0])}; this model's tokens are 0 to {most - 1}, and {_NOT_SUPERVISED} is none"
        )
    if not 0 <= told.num_tokens < float("inf"):
        raise PartyError(f"{client} divides the loss by {told.num_tokens}; use a number above 0")
    return labels_BT


def checked_context(
    told: pb.Forward, message: Message, num_cached_tokens: int, config: PreTrainedConfig, client: str
) -> Mapping[str, Any]:
    """Return mask, positions and others of a forward call, by argument name.

    Args:
        told: the call.
        message: the whole message.
        num_cached_tokens: how many tokens of its rows the part has seen in earlier calls.
        config: the unsplit model's configuration.
        client: who asks.

    Raises:
        PartyError: one is not allowed, or does not fit the smashed data.
    """
    context = read_value(told.context, message.tensors, client) or {}
    shape = tuple(told.inputs[0].shape)
    rows, tokens = (*shape, 0, 0)[:2]
    for name, value in context.items():
        if name not in _CONTEXT:
            raise PartyError(f"{client} sent {name[:80]!r} beside the smashed data; a server takes {', '.join(_CONTEXT)}")
        if name == "attention_mask" and isinstance(value, torch.Tensor) and value.ndim == 2:
            wanted = rows, num_cached_tokens + tokens
            if tuple(value.shape) != wanted:
                raise PartyError(f"{client} sent a mask of the shape {tuple(value.shape)}, not {wanted}")
        if name == "position_ids":
            _check_positions(value, rows, tokens, config, client)
    return context


def _check_positions(value: Any, rows: int, tokens: int, config: PreTrainedConfig, client: str) -> None:
    # On a GPU an index out of range would end the whole process.
    if not isinstance(value, torch.Tensor) or value.is_floating_point() or value.shape[-1:] != (tokens,):
        raise PartyError(f"{client} sent positions that do not fit {rows} rows of {tokens} tokens")
    most = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None) or 1 << 31
    if value.numel() and (int(value.min()) < 0 or int(value.max()) >= most):
        raise PartyError(
            f"{client} sent positions from {int(value.min())} to {int(value.max())}; this model's lie between 0 and {most - 1}"
        )
