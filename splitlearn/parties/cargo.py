"""Freight and gradients as messages: what a boundary hands over, written down in a head and beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from splitlearn.boundary import Columns, Freight
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.values import read_value, write_value
from splitlearn.parties.wire import columns_of, named_columns
from splitlearn.parties.wire_checks import DTYPES, WireError, check_finite

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ROWS = "rows"
_RESULT = "result"
# The losses that were asked for, or what transformers returns.
_RESULTS = ("text", "router", "logits", "loss")


def write_encoded(freight: Freight, tensors: dict[str, torch.Tensor]) -> list[pb.Encoded]:
    """Return what a head says of the encoded tensors of a freight, and add their columns to the message's tensors."""
    heads = []
    for place, columns in enumerate(freight.encoded):
        name = str(place)
        tensors |= named_columns(name, columns)
        heads.append(
            pb.Encoded(
                name=name,
                dtype=_NAMES[freight.dtypes[place]],
                needs_gradient=freight.needs_gradient[place],
                shape=freight.shapes[place],
            )
        )
    if freight.rows_B is not None:
        tensors[_ROWS] = freight.rows_B
    return heads


def write_places(freight: Freight) -> pb.Value:
    """Return where the recorded outputs of layers stand among a freight's tensors."""
    places = {part: {name: list(of) for name, of in named.items()} for part, named in freight.layer_outputs.items()}
    return write_value(places, {})


def read_freight(
    heads: Sequence[pb.Encoded],
    places: pb.Value,
    tensors: Mapping[str, torch.Tensor],
    sender: str,
    context: Mapping[str, Any] | None = None,
    checks_finite: bool = True,
) -> Freight:
    """Return the freight of a message.

    Args:
        heads: from `write_encoded`.
        places: from `write_places`.
        tensors: the message's tensors.
        sender: the party it comes from, for messages.
        context: mask, positions and others that came with it.
        checks_finite: refuse numbers that are not finite.

    Raises:
        WireError: tensors are missing, not finite, or of a dtype that cannot be computed with.
    """
    encoded = [_columns(head, tensors, sender, checks_finite) for head in heads]
    outputs = read_value(places, {}, sender) or {}
    return Freight(
        encoded,
        [_dtype(head, sender) for head in heads],
        [torch.Size(head.shape) for head in heads],
        [head.needs_gradient for head in heads],
        context or {},
        _checked_places(outputs, len(encoded), sender),
        tensors.get(_ROWS),
    )


def write_results(results: Mapping[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> list[pb.Encoded]:
    """Return what a head says of a top's results, by name, and add them to the message's tensors. No codec changes them."""
    tensors |= {f"{_RESULT}/{name}": tensor.detach() for name, tensor in results.items()}
    return [
        pb.Encoded(name=name, dtype=_NAMES[tensor.dtype], needs_gradient=tensor.requires_grad, shape=tensor.shape)
        for name, tensor in results.items()
    ]


def read_results(
    heads: Sequence[pb.Encoded], tensors: Mapping[str, torch.Tensor], sender: str
) -> tuple[dict[str, torch.Tensor], list[bool]]:
    """Return a top's results by name, and for each whether its gradient is needed.

    Raises:
        WireError: a result is missing, or is none that a top has.
    """
    results = {head.name: tensors.get(f"{_RESULT}/{head.name}") for head in heads}
    for name, tensor in results.items():
        if name not in _RESULTS or tensor is None or not tensor.is_floating_point():
            raise WireError(f"{sender} sent the result {name[:80]!r} of a top, which is none of {', '.join(_RESULTS)}")
    if not {"text", "logits"} & results.keys():
        raise WireError(f"{sender} sent neither losses nor logits")
    return {name: tensor for name, tensor in results.items() if tensor is not None}, [head.needs_gradient for head in heads]


def write_result_gradients(gradients: Mapping[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> list[pb.Encoded]:
    """Return what a head says of the gradients of a top's results, by name, and add them to the message's tensors."""
    tensors |= {f"gradient/{name}": gradient for name, gradient in gradients.items()}
    return [pb.Encoded(name=name) for name in gradients]


def read_result_gradients(
    heads: Sequence[pb.Encoded],
    tensors: Mapping[str, torch.Tensor],
    results: Mapping[str, torch.Tensor],
    sender: str,
    checks_finite: bool = True,
) -> dict[str, torch.Tensor]:
    """Return the gradients of a top's results by name.

    Raises:
        WireError: a gradient is of no result that needs one, does not fit it, or is not finite.
    """
    gradients: dict[str, torch.Tensor] = {}
    for head in heads:
        result, gradient = results.get(head.name), tensors.get(f"gradient/{head.name}")
        fits = gradient is not None and result is not None and (gradient.shape, gradient.dtype) == (result.shape, result.dtype)
        if gradient is None or result is None or not fits or not result.requires_grad:
            raise WireError(f"{sender} sent a gradient of {head.name[:80]!r}, which does not fit a result of the top")
        gradients[head.name] = gradient
    if checks_finite:
        check_finite(gradients, sender)
    return gradients


def write_gradients(gradients: Sequence[Columns | None], tensors: dict[str, torch.Tensor]) -> list[pb.Encoded]:
    """Return what a head says of the gradients that there are, and add their columns to the message's tensors."""
    heads = []
    for place, columns in enumerate(gradients):
        if columns is not None:
            tensors |= named_columns(f"gradient/{place}", columns)
            heads.append(pb.Encoded(name=str(place)))
    return heads


def read_gradients(
    heads: Sequence[pb.Encoded], tensors: Mapping[str, torch.Tensor], count: int, sender: str, checks_finite: bool = True
) -> list[Columns | None]:
    """Return the gradients of a message, one for each of ``count`` tensors.

    Raises:
        WireError: a gradient is of a tensor that there is not, or is missing or not finite.
    """
    gradients: list[Columns | None] = [None] * count
    for head in heads:
        if not head.name.isdecimal() or int(head.name) >= count:
            raise WireError(f"{sender} sent a gradient of {head.name[:80]!r}, which it was not sent")
        columns = columns_of(tensors, f"gradient/{head.name}")
        if not columns:
            raise WireError(f"{sender} names the gradient {head.name}, which is not in its message")
        if checks_finite:
            check_finite(columns, sender)
        gradients[int(head.name)] = columns
    return gradients


def _columns(head: pb.Encoded, tensors: Mapping[str, torch.Tensor], sender: str, checks_finite: bool) -> Columns:
    columns = columns_of(tensors, head.name)
    if not columns:
        raise WireError(f"{sender} names the tensor {head.name[:80]!r}, which is not in its message")
    if checks_finite:
        check_finite(columns, sender)
    return columns


def _dtype(head: pb.Encoded, sender: str) -> torch.dtype:
    dtype = DTYPES.get(head.dtype)
    if dtype is None or not dtype.is_floating_point:
        raise WireError(f"{sender} sent smashed data of the dtype {head.dtype[:80]!r}; use a floating-point one")
    return dtype


def _checked_places(outputs: Any, count: int, sender: str) -> dict[str, dict[str, tuple[int | None, ...]]]:
    wrong = WireError(f"{sender} sent a list of recorded outputs that does not fit its tensors")
    if not isinstance(outputs, dict):
        raise wrong
    checked: dict[str, dict[str, tuple[int | None, ...]]] = {}
    for part, named in outputs.items():
        if not isinstance(named, dict):
            raise wrong
        for name, places in named.items():
            is_right = isinstance(places, list) and all(
                place is None or (type(place) is int and 0 <= place < count) for place in places
            )
            if not is_right:
                raise wrong
            checked.setdefault(part, {})[name] = tuple(places)
    return checked
