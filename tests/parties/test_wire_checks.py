"""Hostile messages are refused by one sentence, before memory is taken for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitlearn.parties import MessageReader, WireError, WireLimits, check_finite, check_head, party_pb2, write_message

LIMITS = WireLimits(max_message_bytes=1 << 20, max_tensors=16, max_head_bytes=1 << 12)
MiB = 1 << 20


def tensor(*shape: int, name: str = "hidden/values", dtype: str = "float32") -> party_pb2.Tensor:
    return party_pb2.Tensor(name=name, dtype=dtype, shape=shape)


def head(*tensors: party_pb2.Tensor, payload_bytes: int = 0, **body: Any) -> party_pb2.Head:
    body = body or {"forward": party_pb2.Forward()}
    return party_pb2.Head(call=1, tensors=tensors, payload_bytes=payload_bytes, **body)


def frame_of(head: party_pb2.Head, payload: bytes = b"") -> bytes:
    return party_pb2.Frame(head=head, payload=payload).SerializeToString()


HOSTILE = {
    "4 GiB": (
        head(tensor(1 << 20, 1 << 10), payload_bytes=1 << 32),
        r"alice sent the tensor 'hidden/values' of the shape \(1048576, 1024\) in float32, which would take 4,294,967,296 "
        r"bytes, and at most 1,048,576 are allowed \(max_message_bytes\)",
    ),
    "more than 64 bits": (head(tensor(1 << 32, 1 << 32, 4)), "which would take 295,147,905,179,352,825,856 bytes"),
    "huge beside an empty dimension": (head(tensor(1 << 62, 4, 0)), "and at most 1,048,576 are allowed"),
    "negative": (head(tensor(-1, 4)), r"'hidden/values' with the shape \(-1, 4\); sizes must not be negative"),
    "two negatives": (head(tensor(-2, -2), payload_bytes=16), "sizes must not be negative"),
    "many dimensions": (head(tensor(*[1] * 9), payload_bytes=4), "with 9 dimensions, and at most 8 are allowed"),
    "unknown dtype": (head(tensor(1, dtype="object")), "in the dtype 'object'; there are float32, bfloat16, "),
    "no dtype": (head(tensor(1, dtype="")), "in the dtype ''; there are"),
    "dtype with escapes": (head(tensor(1, dtype="\x1b[2J")), r"in the dtype '\?\[2J'"),
    "long dtype": (head(tensor(1, dtype="x" * 2000)), "x{80}...'; there are"),
    "long name": (head(tensor(1, name="n" * 513), payload_bytes=4), "a name of 513 signs, and at most 512 are allowed"),
    "one name twice": (head(tensor(1), tensor(1), payload_bytes=8), "two tensors of the name 'hidden/values'"),
    "too little payload": (head(tensor(4), payload_bytes=15), "tensors of 16 bytes, but says that the payload has 15"),
    "too much payload": (head(tensor(4), payload_bytes=17), "tensors of 16 bytes, but says that the payload has 17"),
    "payload without tensors": (head(payload_bytes=1 << 60), "tensors of 0 bytes, but says"),
    "many tensors": (head(*[tensor(0, name=str(place)) for place in range(17)]), "17 tensors in one message, and at most 16"),
    "large together": (
        head(*[tensor(MiB // 8, name=str(place)) for place in range(3)], payload_bytes=3 * MiB // 2),
        r"whose tensors, up to '2', have 1,572,864 bytes, and at most 1,048,576 are allowed \(max_message_bytes\)",
    ),
    "no body": (party_pb2.Head(call=1), "without a body; it may speak a newer version"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_head_is_refused_in_one_sentence(name: str) -> None:
    hostile, said = HOSTILE[name]
    with pytest.raises(WireError, match=said) as refusal:
        MessageReader(LIMITS, "alice").add(frame_of(hostile))
    assert str(refusal.value).startswith("alice sent ")
    assert str(refusal.value).isprintable()


def test_no_memory_is_taken_for_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise AssertionError("memory was taken")

    monkeypatch.setattr(torch, "empty", no_memory)
    for hostile, _ in HOSTILE.values():
        with pytest.raises(WireError):
            MessageReader(LIMITS, "alice").add(frame_of(hostile))


FRAMES = {
    "nothing": ([b""], "a frame without a head"),
    "text": ([b"GET / HTTP/1.1"], "shorter than it says"),
    "payload without a head": ([party_pb2.Frame(payload=b"abc").SerializeToString()], "a frame without a head"),
    "half a number": ([b"\x0a\xff"], "ends in the middle of a number"),
    "a number of 11 bytes": ([b"\x0a" + b"\xff" * 11], "ends in the middle of a number"),
    "shorter than it says": ([b"\x0a\x7fabc"], "shorter than it says"),
    "no message": ([b"\x0a\x03\xff\xff\xff"], "a head that is no message of this protocol"),
    "text that is no UTF-8": ([b"\x0a\x05\x1a\x03\x0a\x01\xff"], "no message of this protocol"),
    "two heads": ([frame_of(head()) * 2], "unexpected field"),
    "two payloads": ([frame_of(head(tensor(2), payload_bytes=8), b"1234") + b"\x12\x041234"], "unexpected field"),
    "a head that is too long": (
        [frame_of(head(forward=party_pb2.Forward(kind="x" * 5000)))],
        r"a head of 5,0\d\d bytes, and at most 4,096",
    ),
    "a longer payload": ([frame_of(head(tensor(2), payload_bytes=8), b"123456789")], "a longer payload than its head says"),
    "a payload for nothing": ([frame_of(head(), b"1")], "a longer payload than its head says"),
    "an empty frame between": ([frame_of(head(tensor(2), payload_bytes=8), b"1234"), b""], "a frame without a head"),
    "a head in a message": (
        [frame_of(head(tensor(2), payload_bytes=8), b"1234"), frame_of(head())],
        "a message before its last one had ended",
    ),
    "a bool of 2": (
        [frame_of(head(tensor(2, dtype="bool"), payload_bytes=2), b"\1\2")],
        "as bool, with other numbers",
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_hostile_frames_are_refused_in_one_sentence(name: str) -> None:
    frames, said = FRAMES[name]
    reader = MessageReader(LIMITS, "alice")
    assert [reader.add(frame) for frame in frames[:-1]] == [None] * (len(frames) - 1)
    with pytest.raises(WireError, match=said):
        reader.add(frames[-1])


def nested_in(tag: int, content: bytes) -> bytes:
    size, low = len(content), len(content) & 0x7F
    return bytes([tag, low]) + content if size < 128 else bytes([tag, low | 0x80, size >> 7]) + content


def test_nested_values_beyond_protobufs_depth_are_refused() -> None:
    value = party_pb2.Value(flag=True).SerializeToString()
    for _ in range(150):
        value = nested_in(0x42, nested_in(0x0A, value))
    forward = nested_in(0x5A, nested_in(0x2A, value))
    with pytest.raises(WireError, match="no message of this protocol"):
        MessageReader(WireLimits(), "alice").add(nested_in(0x0A, forward))
    shallow = party_pb2.Value(list=party_pb2.ValueList(items=[party_pb2.Value(flag=True)])).SerializeToString()
    assert MessageReader(WireLimits(), "alice").add(nested_in(0x0A, nested_in(0x5A, nested_in(0x2A, shallow))))


SIZES = st.one_of(st.integers(-3, 9), st.sampled_from([-(1 << 63), (1 << 63) - 1, 1 << 31, 1 << 40]))
ANY_TENSOR = st.builds(
    lambda name, dtype, shape: party_pb2.Tensor(name=name, dtype=dtype, shape=shape),
    st.sampled_from(["a", "b", "hidden/values"]),
    st.sampled_from(["float32", "bfloat16", "int8", "bool", "object", "", "torch.float32"]),
    st.lists(SIZES, max_size=9),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY_TENSOR, max_size=4), st.one_of(st.none(), st.integers(0, (1 << 64) - 1)), st.binary(max_size=64))
def test_any_head_is_accepted_whole_or_refused(tensors: list[party_pb2.Tensor], said: int | None, payload: bytes) -> None:
    """Whatever a head says, either it is refused, or its tensors have just the shapes that it says."""
    small = WireLimits(max_message_bytes=4096)
    total = sum(
        torch.empty(0, dtype=getattr(torch, each.dtype)).itemsize * int(torch.tensor(list(each.shape)).prod())
        for each in tensors
        if each.dtype in ("float32", "bfloat16", "int8", "bool") and all(0 <= size < 10 for size in each.shape)
    )
    lying = head(*tensors, payload_bytes=total if said is None else said)
    reader = MessageReader(small, "alice")
    try:
        message = reader.add(frame_of(lying, payload))
    except WireError as refusal:
        assert str(refusal).startswith("alice sent ")
        return
    if message is not None:
        assert sum(each.nbytes for each in message.tensors.values()) == len(payload) == lying.payload_bytes
        assert [list(each.shape) for each in message.tensors.values()] == [list(each.shape) for each in tensors]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=4))
def test_random_bytes_are_refused_or_wait_for_more(frames: list[bytes]) -> None:
    reader = MessageReader(LIMITS, "alice")
    try:
        for frame in frames:
            reader.add(frame)
    except WireError as refusal:
        assert str(refusal).startswith("alice sent ")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_message_with_one_bit_turned_is_refused_or_read_whole(data: st.DataObject) -> None:
    (written,) = write_message(head(), {"hidden/values": torch.arange(4.0), "mask": torch.ones(3, dtype=torch.bool)})
    place, bit = data.draw(st.integers(0, len(written) - 1)), data.draw(st.integers(0, 7))
    turned = bytearray(written)
    turned[place] ^= 1 << bit
    try:
        message = MessageReader(LIMITS, "alice").add(bytes(turned))
    except WireError as refusal:
        assert str(refusal).startswith("alice sent ")
        return
    if message is not None:
        assert sum(each.nbytes for each in message.tensors.values()) == message.head.payload_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused_with_their_place(dtype: torch.dtype, value: float) -> None:
    hidden = torch.zeros(2, 3, 4, dtype=dtype)
    hidden[1, 2, 0] = hidden[1, 2, 3] = value
    with pytest.raises(WireError, match=r"'hidden/values' with 2 numbers that are not finite, the first .* at \(1, 2, 0\)"):
        check_finite({"mask": torch.ones(2, 3, dtype=torch.int64), "hidden/values": hidden}, "alice")


def test_infinities_of_both_signs_do_not_cancel() -> None:
    with pytest.raises(WireError, match="2 numbers"):
        check_finite({"x": torch.tensor([float("inf"), float("-inf")])}, "alice")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_finite_numbers_are_accepted_although_their_sum_overflows(dtype: torch.dtype) -> None:
    largest = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert not torch.isfinite(largest.sum())
    check_finite({"x": largest, "empty": torch.empty(0), "whole": torch.arange(3)}, "alice")


def test_limits_themselves_are_accepted() -> None:
    largest = head(tensor(1 << 18), payload_bytes=1 << 20)
    check_head(largest, LIMITS, "alice")
