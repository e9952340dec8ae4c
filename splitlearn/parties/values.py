"""Plain values, which may contain tensors, as messages: arguments, and the state of a part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.wire import WireError

# protobuf reads 100 messages within one another; each level here takes two.
_MAX_DEPTH = 40
_INT64 = range(-(1 << 63), 1 << 63)


def write_value(value: Any, tensors: dict[str, torch.Tensor], name: str = "value") -> pb.Value:
    """Return a value as a message; its tensors go beside it.

    Args:
        value: None, bool, int, float, text, bytes, a tensor, or lists, tuples and dictionaries of these with text as keys.
        tensors: the message's tensors by name, to which the value's are added.
        name: how the value's tensors are named: ``name/KEY``.

    Raises:
        WireError: something in it is of another type, or it is nested too deeply.
    """
    return _write(value, tensors, name, _MAX_DEPTH)


def read_value(value: pb.Value, tensors: Mapping[str, torch.Tensor], sender: str) -> Any:
    """Return what `write_value` was given.

    Args:
        value: the message.
        tensors: the message's tensors by name.
        sender: the party it comes from, for messages.

    Raises:
        WireError: a tensor is missing, or a dictionary has a key twice.
    """
    match value.WhichOneof("kind"):
        case None | "null":
            return None
        case "tensor":
            if value.tensor not in tensors:
                raise WireError(f"{sender} names the tensor {value.tensor[:80]!r}, which is not in its message")
            return tensors[value.tensor]
        case "list":
            return [read_value(item, tensors, sender) for item in value.list.items]
        case "tuple":
            return tuple(read_value(item, tensors, sender) for item in value.tuple.items)
        case "map":
            keys = list(value.map.keys)
            if len(keys) != len(value.map.values) or len(set(keys)) != len(keys):
                raise WireError(
                    f"{sender} sent a dictionary whose {len(keys)} keys and {len(value.map.values)} values do not match"
                )
            return {key: read_value(item, tensors, sender) for key, item in zip(keys, value.map.values, strict=True)}
        case kind:
            return getattr(value, kind)


def _write(value: Any, tensors: dict[str, torch.Tensor], name: str, depth: int) -> pb.Value:
    if depth == 0:
        raise WireError(f"{name[:80]} is nested more than {_MAX_DEPTH} levels deep, which cannot be sent")
    if isinstance(value, torch.Tensor):
        return pb.Value(tensor=_add(tensors, name, value))
    if isinstance(value, (list, tuple)):
        items = pb.ValueList(items=[_write(item, tensors, f"{name}/{place}", depth - 1) for place, item in enumerate(value)])
        return pb.Value(list=items) if isinstance(value, list) else pb.Value(tuple=items)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        values = [_write(item, tensors, f"{name}/{key}", depth - 1) for key, item in value.items()]
        return pb.Value(map=pb.ValueMap(keys=list(value), values=values))
    written = _write_plain(value)
    if written is None:
        raise WireError(f"{name} is {type(value).__name__}, which cannot be sent; use plain values, tensors, and text as keys")
    return written


def _write_plain(value: Any) -> pb.Value | None:
    match value:
        case None:
            return pb.Value(null=True)
        # Before int, which a bool is too.
        case bool():
            return pb.Value(flag=value)
        case int() if value in _INT64:
            return pb.Value(integer=value)
        case float():
            return pb.Value(number=value)
        case str():
            return pb.Value(text=value)
        case bytes():
            return pb.Value(raw=value)
    return None


def _add(tensors: dict[str, torch.Tensor], name: str, tensor: torch.Tensor) -> str:
    free = name
    while free in tensors:
        free += "'"
    tensors[free] = tensor
    return free
