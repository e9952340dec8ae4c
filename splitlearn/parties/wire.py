"""Messages on the wire: a head of protobuf, and the bytes of tensors as they are.

A frame is a valid protobuf ``Frame``, but its payload is spliced in and taken out by hand: protobuf would copy it twice more on
each side. Nothing is pickled. What a head says of sizes is checked before any memory is taken for them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from google.protobuf.message import DecodeError

from splitlearn.naming import named
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.wire_checks import DTYPES, WireError, WireLimits, check_head, shown

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Field 1 and field 2 of a Frame; both are length-delimited.
_HEAD_TAG, _PAYLOAD_TAG = 0x0A, 0x12


@dataclass(frozen=True, eq=False)
class Message:
    """A message that has come.

    Attributes:
        head: what it says.
        tensors: its tensors by name, on the CPU; each has memory of its own.
        num_bytes: its size on the wire, without what gRPC and TLS add.
    """

    head: pb.Head
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    num_bytes: int = 0

    @property
    def kind(self) -> str:
        """The name of its body, such as ``"forward"``."""
        return self.head.WhichOneof("body") or ""


def write_message(
    head: pb.Head, tensors: Mapping[str, torch.Tensor] | None = None, chunk_bytes: int = WireLimits.chunk_bytes
) -> Iterator[bytes]:
    """Yield the frames of a message. Bytes of tensors are copied once, into the frames.

    Frames are made as they are asked for, so tensors must not change before the last one.

    Args:
        head: what the message says; its list of tensors is written anew.
        tensors: its tensors by name, of any device, strides and shape.
        chunk_bytes: how much of the payload a frame holds.

    Raises:
        WireError: a tensor cannot be sent.
    """
    del head.tensors[:]
    pieces: list[memoryview] = []
    for name, tensor in (tensors or {}).items():
        plain = _plain(name, tensor)
        head.tensors.append(pb.Tensor(name=name, dtype=_NAMES[plain.dtype], shape=plain.shape))
        if plain.numel():
            pieces.append(_bytes_of(plain))
    head.payload_bytes = sum(map(len, pieces))
    written = head.SerializeToString()
    start: list[bytes | memoryview] = [bytes([_HEAD_TAG]), _varint(len(written)), written]
    for chunk in _chunks(pieces, chunk_bytes):
        size = sum(map(len, chunk))
        yield b"".join([*start, bytes([_PAYLOAD_TAG]), _varint(size), *chunk])
        start = []
    if start:
        yield b"".join(start)


class MessageReader:
    """Puts frames together to messages.

    Args:
        limits: larger messages are refused.
        sender: the party that the frames come from, for messages.
    """

    def __init__(self, limits: WireLimits, sender: str) -> None:
        self._limits = limits
        self._sender = sender
        self._head: pb.Head | None = None
        self._tensors: dict[str, torch.Tensor] = {}
        # Where the bytes that are still to come go, the next one last.
        self._room: list[memoryview] = []
        self._num_bytes = 0

    @property
    def is_under_way(self) -> bool:
        """Whether a message has begun that has not ended yet."""
        return self._head is not None

    def add(self, frame: bytes) -> Message | None:
        """Take the next frame.

        Args:
            frame: as it came.

        Returns:
            The message that ends with this frame; None if more frames belong to it.

        Raises:
            WireError: the frame is none, or the message is larger than the limits, or contradicts itself. Nothing more can be
                read from this sender.
        """
        head, payload = self._parse(frame)
        if head is not None:
            if self._head is not None:
                raise WireError(f"{self._sender} sent a message before its last one had ended")
            self._begin(head)
        elif self._head is None or not len(payload):
            raise WireError(f"{self._sender} sent a frame without a head, and no message is under way for it")
        self._num_bytes += len(frame)
        self._fill(payload)
        if self._room:
            return None
        return self._finish()

    def _finish(self) -> Message:
        message = Message(self._head or pb.Head(), self._tensors, self._num_bytes)
        self._head, self._tensors, self._num_bytes = None, {}, 0
        for name, tensor in message.tensors.items():
            # Any other byte in a tensor of bools is undefined behaviour in torch's kernels.
            if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
                raise WireError(f"{self._sender} sent the tensor {shown(name)} as bool, with other numbers in it than 0 and 1")
        return message

    def _begin(self, head: pb.Head) -> None:
        check_head(head, self._limits, self._sender)
        self._head = head
        # The system gives memory to an empty tensor as it is written to.
        self._tensors = {tensor.name: torch.empty(list(tensor.shape), dtype=DTYPES[tensor.dtype]) for tensor in head.tensors}
        self._room = [_bytes_of(tensor) for tensor in reversed(self._tensors.values()) if tensor.numel()]

    def _fill(self, payload: memoryview) -> None:
        while len(payload):
            if not self._room:
                raise WireError(f"{self._sender} sent a longer payload than its head says")
            room = self._room.pop()
            size = min(len(room), len(payload))
            room[:size] = payload[:size]
            payload = payload[size:]
            if size < len(room):
                self._room.append(room[size:])

    def _parse(self, frame: bytes) -> tuple[pb.Head | None, memoryview]:
        """Return a frame's head, if it has one, and its payload, which is not copied."""
        view = memoryview(frame)
        head: pb.Head | None = None
        payload: memoryview | None = None
        at = 0
        while at < len(view):
            tag = view[at]
            size, at = self._read_varint(view, at + 1)
            if size > len(view) - at:
                raise WireError(f"{self._sender} sent a frame that is shorter than it says")
            field_bytes = view[at : at + size]
            if tag == _HEAD_TAG and head is None:
                head = self._read_head(field_bytes)
            elif tag == _PAYLOAD_TAG and payload is None:
                payload = field_bytes
            else:
                raise WireError(f"{self._sender} sent a frame with an unexpected field (tag {tag})")
            at += size
        return head, view[:0] if payload is None else payload

    def _read_head(self, written: memoryview) -> pb.Head:
        if len(written) > self._limits.max_head_bytes:
            raise WireError(
                f"{self._sender} sent a head of {len(written):,} bytes, and at most {self._limits.max_head_bytes:,} are "
                f"allowed ({named('max_head_bytes')})"
            )
        head = pb.Head()
        try:
            head.ParseFromString(written.tobytes())
        except DecodeError as error:
            raise WireError(f"{self._sender} sent a head that is no message of this protocol") from error
        return head

    def _read_varint(self, data: memoryview, at: int) -> tuple[int, int]:
        value = shift = 0
        while at < len(data) and shift < 64:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise WireError(f"{self._sender} sent a frame that ends in the middle of a number")


def columns_of(tensors: Mapping[str, torch.Tensor], place: str) -> dict[str, torch.Tensor]:
    """Return the columns of one encoded tensor: those under ``place/``.

    Args:
        tensors: of a message, by name.
        place: the name of the encoded tensor, such as ``hidden``.
    """
    start = f"{place}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def named_columns(place: str, columns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the columns of one encoded tensor under the names that they have in a message.

    Args:
        place: the name of the encoded tensor, such as ``hidden``.
        columns: what a codec made of it.
    """
    return {f"{place}/{name}": column for name, column in columns.items()}


def _plain(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as one dense block of the CPU's memory."""
    if tensor.dtype not in _NAMES:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise WireError(f"the tensor {name!r} is {dtype}, which cannot be sent; there are {', '.join(DTYPES)}")
    if tensor.is_meta or tensor.layout != torch.strided:
        form = "on the meta device" if tensor.is_meta else f"of the layout {tensor.layout}"
        raise WireError(f"the tensor {name!r} is {form}, which cannot be sent; send a dense tensor with values")
    if sys.byteorder != "little":
        raise WireError("tensors are sent in little-endian order, and this machine is big-endian")
    return tensor.detach().cpu().contiguous()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a dense tensor that is not empty."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _chunks(pieces: Sequence[memoryview], chunk_bytes: int) -> Iterator[list[memoryview]]:
    """Divide pieces of memory into chunks of the same size, without copying; only the last is smaller."""
    chunk: list[memoryview] = []
    room = chunk_bytes
    for piece in pieces:
        while len(piece) >= room:
            yield [*chunk, piece[:room]]
            piece, chunk, room = piece[room:], [], chunk_bytes
        if len(piece):
            chunk.append(piece)
            room -= len(piece)
    if chunk:
        yield chunk


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
