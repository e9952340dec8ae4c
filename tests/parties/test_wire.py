"""Messages come out as they went in, and cost little more than their tensors."""

from __future__ import annotations

import pytest
import torch

from splitlearn.parties import (
    Message,
    MessageReader,
    WireError,
    WireLimits,
    columns_of,
    named_columns,
    party_pb2,
    write_message,
)

LIMITS = WireLimits(max_message_bytes=1 << 24)


def head(call: int = 1) -> party_pb2.Head:
    return party_pb2.Head(call=call, forward=party_pb2.Forward(kind="train"))


def read(frames: list[bytes], limits: WireLimits = LIMITS) -> Message:
    reader = MessageReader(limits, "alice")
    messages = [reader.add(frame) for frame in frames]
    assert messages[:-1] == [None] * (len(frames) - 1)
    assert messages[-1] is not None
    return messages[-1]


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """Equal to the bit, NaN included."""
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.contiguous().reshape(-1).view(torch.uint8).equal(other.contiguous().reshape(-1).view(torch.uint8))


def four_bits(values: torch.Tensor) -> torch.Tensor:
    """Two numbers of four bits in each byte, as a codec packs them."""
    return (values[..., ::2] & 15) | (values[..., 1::2] << 4)


TENSORS = {
    "float32": torch.randn(3, 5),
    "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    "bfloat16": torch.randn(2, 3, 4).bfloat16(),
    "float16": torch.randn(7).half(),
    "float64": torch.randn(2).double(),
    "int8": torch.tensor([[-128, 127]], dtype=torch.int8),
    "uint8": torch.arange(255, dtype=torch.uint8),
    "four_bits": four_bits(torch.arange(16, dtype=torch.uint8).reshape(2, 8)),
    "int16": torch.tensor([-5], dtype=torch.int16),
    "int32": torch.tensor([1 << 30], dtype=torch.int32),
    "int64": torch.tensor([[1 << 62, -1]]),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(1.5),
    "empty": torch.empty(0),
    "no rows": torch.empty(0, 4, 8),
    "no tokens": torch.empty(2, 0, 8, dtype=torch.int64),
    "transposed": torch.randn(4, 6).t(),
    "strided": torch.randn(8, 8)[::2, 1::3],
    "expanded": torch.randn(1, 4).expand(3, 4),
    "reversed": torch.randn(5).flip(0),
    "tracked": torch.randn(3, requires_grad=True),
}


@pytest.mark.parametrize("name", TENSORS)
def test_every_kind_of_tensor_comes_out_as_it_went_in(name: str) -> None:
    message = read(list(write_message(head(), {name: TENSORS[name]})))
    assert_same(message.tensors[name], TENSORS[name].detach())


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1 << 20])
def test_chunks_of_any_size_put_many_tensors_together(chunk_bytes: int) -> None:
    frames = list(write_message(head(9), TENSORS, chunk_bytes))
    message = read(frames)
    assert message.head.call == 9
    assert message.kind == "forward"
    assert message.num_bytes == sum(map(len, frames))
    assert list(message.tensors) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert_same(message.tensors[name], tensor.detach())


def test_frames_are_what_protobuf_writes_and_reads() -> None:
    frames = list(write_message(head(), {"values": torch.arange(6, dtype=torch.uint8)}, chunk_bytes=4))
    first, second = map(party_pb2.Frame.FromString, frames)
    assert first.head.payload_bytes == 6
    assert first.head.tensors[0].shape == [6]
    assert (first.payload, second.payload) == (bytes(range(4)), bytes([4, 5]))
    assert not second.HasField("head")
    assert_same(read([frame.SerializeToString() for frame in (first, second)]).tensors["values"], torch.arange(6).byte())


def test_a_message_without_tensors_is_one_frame() -> None:
    (frame,) = write_message(party_pb2.Head(call=3, close=party_pb2.Close(reason="done")))
    message = read([frame])
    assert (message.kind, message.head.close.reason, message.tensors) == ("close", "done", {})


def test_messages_follow_one_another_in_one_reader() -> None:
    reader = MessageReader(LIMITS, "alice")
    for call in (1, 2):
        tensor = torch.randn(300)
        *most, last = write_message(head(call), {"values": tensor}, chunk_bytes=512)
        assert [reader.add(frame) for frame in most] == [None] * len(most)
        assert reader.is_under_way
        message = reader.add(last)
        assert message is not None
        assert not reader.is_under_way
        assert message.head.call == call
        assert_same(message.tensors["values"], tensor)


def test_what_was_sent_does_not_change_with_the_tensor() -> None:
    tensor = torch.ones(4)
    frames = list(write_message(head(), {"values": tensor}))
    tensor.zero_()
    assert read(frames).tensors["values"].tolist() == [1.0] * 4


def test_received_tensors_may_be_changed_and_have_memory_of_their_own() -> None:
    message = read(list(write_message(head(), {"one": torch.zeros(2), "other": torch.zeros(2)})))
    message.tensors["one"].add_(1)
    assert message.tensors["other"].tolist() == [0.0, 0.0]
    assert all(tensor.storage_offset() == 0 for tensor in message.tensors.values())


def test_a_head_is_written_anew_if_it_is_sent_again() -> None:
    first = head()
    frames = [list(write_message(first, {"values": torch.zeros(3)})) for _ in range(2)]
    assert frames[0] == frames[1]


def test_the_wire_costs_less_than_a_thousandth_of_the_tensors() -> None:
    hidden = torch.randn(4, 128, 2048)
    assert hidden.nbytes == 4 << 20
    frames = list(write_message(head(), {"hidden/values": hidden, "mask": torch.ones(4, 128, dtype=torch.uint8)}))
    assert max(map(len, frames)) <= LIMITS.max_frame_bytes
    assert sum(map(len, frames)) <= 1.001 * (hidden.nbytes + 512)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(2, dtype=torch.complex64), "the tensor 'x' is complex64, which cannot be sent; there are float32, "),
        (torch.zeros(2, device="meta"), "the tensor 'x' is on the meta device, which cannot be sent; send a dense tensor"),
        (torch.zeros(2, 2).to_sparse(), "the tensor 'x' is of the layout torch.sparse_coo, which cannot be sent"),
    ],
)
def test_a_tensor_that_cannot_be_sent_is_refused(tensor: torch.Tensor, said: str) -> None:
    with pytest.raises(WireError, match=said):
        list(write_message(head(), {"x": tensor}))


def test_columns_are_named_by_the_tensor_that_they_encode() -> None:
    columns = {"values": torch.zeros(2), "scales": torch.ones(1)}
    tensors = named_columns("hidden", columns) | named_columns("hidden_2", columns)
    assert list(tensors) == ["hidden/values", "hidden/scales", "hidden_2/values", "hidden_2/scales"]
    assert columns_of(tensors, "hidden") == columns


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_tensors is 0; use 1 or more"):
        WireLimits(max_tensors=0)
