"""What is accepted from another party: sizes, dtypes and numbers, each refused by one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from splitlearn.naming import named
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.redaction import printable

# The dtypes that cross, by the name that they have on the wire. Codecs pack four-bit numbers into uint8.
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float64,
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.bool,
    )
}
_MAX_DIMENSIONS = 8
_MAX_NAME = 512
_SHOWN_SIGNS = 80
# Tag and length of both fields of a frame.
_FRAME_OVERHEAD = 32


class WireError(ValueError):
    """A message cannot be sent, or what has come cannot be accepted; the message is one sentence that says why."""


@dataclass(frozen=True)
class WireLimits:
    """The largest messages that are accepted.

    Args:
        max_message_bytes: of all tensors of a message together.
        max_tensors: tensors in a message.
        max_head_bytes: of a head.
        chunk_bytes: how much of a payload a frame holds.

    Raises:
        ValueError: a limit is not positive.
    """

    max_message_bytes: int = 1 << 28
    max_tensors: int = 1 << 14
    max_head_bytes: int = 1 << 22
    chunk_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            if limit < 1:
                raise ValueError(f"{named(name)} is {limit}; use 1 or more")

    @property
    def max_frame_bytes(self) -> int:
        """The largest frame, for gRPC's own limit: it refuses a larger one before memory is taken."""
        return self.max_head_bytes + self.chunk_bytes + _FRAME_OVERHEAD


def check_head(head: pb.Head, limits: WireLimits, sender: str) -> None:
    """Refuse a head whose tensors could not be taken, before memory is taken for them.

    Args:
        head: the head of a message.
        limits: what is accepted.
        sender: the party it comes from, for the message.

    Raises:
        WireError: there are too many tensors, one has an unknown dtype, a negative size or too many dimensions, two have one
            name, they are too large together, or their sizes contradict the payload's.
    """
    if head.WhichOneof("body") is None:
        raise WireError(f"{sender} sent a message without a body; it may speak a newer version of the protocol")
    if len(head.tensors) > limits.max_tensors:
        raise WireError(
            f"{sender} sent {len(head.tensors):,} tensors in one message, and at most {limits.max_tensors:,} are allowed "
            f"({named('max_tensors')})"
        )
    names: set[str] = set()
    total = 0
    for tensor in head.tensors:
        if tensor.name in names:
            raise WireError(f"{sender} sent two tensors of the name {shown(tensor.name)} in one message")
        names.add(tensor.name)
        total += _checked_size(tensor, limits, sender)
        if total > limits.max_message_bytes:
            raise WireError(
                f"{sender} sent a message whose tensors, up to {shown(tensor.name)}, have {total:,} bytes, and at most "
                f"{limits.max_message_bytes:,} are allowed ({named('max_message_bytes')})"
            )
    if total != head.payload_bytes:
        raise WireError(f"{sender} sent tensors of {total:,} bytes, but says that the payload has {head.payload_bytes:,}")


def check_finite(tensors: Mapping[str, torch.Tensor], sender: str) -> None:
    """Refuse tensors that hold infinite numbers, or such that are none.

    Args:
        tensors: by name; those of whole numbers are passed over.
        sender: the party they come from, for the message.

    Raises:
        WireError: a tensor holds such a number.
    """
    for name, tensor in tensors.items():
        # One sum usually tells, in a third of the time of isfinite().all(); sums of large finite numbers may overflow.
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            wrong = ~torch.isfinite(tensor)
            place = tuple(torch.nonzero(wrong)[0].tolist())
            raise WireError(
                f"{sender} sent the tensor {shown(name)} with {int(wrong.sum()):,} numbers that are not finite, the first "
                f"({tensor[place].item()}) at {place}"
            )


def _checked_size(tensor: pb.Tensor, limits: WireLimits, sender: str) -> int:
    """Return a tensor's size in bytes."""
    what = f"{sender} sent the tensor {shown(tensor.name)}"
    if len(tensor.name) > _MAX_NAME:
        raise WireError(f"{what} with a name of {len(tensor.name):,} signs, and at most {_MAX_NAME} are allowed")
    if tensor.dtype not in DTYPES:
        raise WireError(f"{what} in the dtype {shown(tensor.dtype)}; there are {', '.join(DTYPES)}")
    if len(tensor.shape) > _MAX_DIMENSIONS:
        raise WireError(f"{what} with {len(tensor.shape):,} dimensions, and at most {_MAX_DIMENSIONS} are allowed")
    shape = tuple(tensor.shape)
    if any(size < 0 for size in shape):
        raise WireError(f"{what} with the shape {shape}; sizes must not be negative")
    # Zeros count as ones: torch multiplies the sizes of an empty tensor, too.
    bound = DTYPES[tensor.dtype].itemsize
    for size in shape:
        bound *= max(size, 1)
    if bound > limits.max_message_bytes:
        raise WireError(
            f"{what} of the shape {shape} in {tensor.dtype}, which would take {bound:,} bytes, and at most "
            f"{limits.max_message_bytes:,} are allowed ({named('max_message_bytes')})"
        )
    return 0 if 0 in shape else bound


def shown(text: str) -> str:
    """Return what a peer calls something, as a part of a sentence."""
    return repr(printable(text if len(text) <= _SHOWN_SIGNS else f"{text[:_SHOWN_SIGNS]}..."))
