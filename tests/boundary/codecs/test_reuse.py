"""What has not moved is not sent again, and the receiver has it all the same."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from splitlearn.boundary import CallKind, Codec, CodecContext, CodecSettings, Reuse

B, T, D = 3, 11, 8
TOKEN, BITMAP = D * 4, B * 2


def context_of(tensor: torch.Tensor, rows: list[int] | None, kind: CallKind = CallKind.TRAIN, place: int = 0) -> CodecContext:
    rows_B = None if rows is None else torch.tensor(rows)
    return CodecContext(kind, "cut_1", "activation", tensor.shape, place, rows_B=rows_B)


def hidden(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed))


def cross(
    sender: Codec, tensor: torch.Tensor, rows: list[int], receiver: Codec | None = None, **more: Any
) -> tuple[torch.Tensor, int]:
    """Return what arrives, and the bytes that were sent."""
    context = context_of(tensor, rows, **more)
    columns = sender.encode(tensor, context)
    arrived = (receiver or sender).decode(columns, tensor.dtype, context)
    return arrived, sum(column.nbytes for column in columns.values())


def test_the_first_epoch_sends_everything_and_a_threshold_of_0_what_differs() -> None:
    codec, tensor = Reuse(threshold=0), hidden()
    arrived, num_bytes = cross(codec, tensor, [5, 0, 9])
    assert torch.equal(arrived, tensor) and num_bytes == B * T * TOKEN + BITMAP
    moved = tensor.clone()
    moved[0, 3, 0] += 1e-30
    moved[0, 3, 1] = torch.nextafter(moved[0, 3, 1], torch.tensor(9.0))
    moved[2, 10] += 1
    # In another order, as the next epoch has them.
    order = [2, 0, 1]
    arrived, num_bytes = cross(codec, moved[order], [9, 5, 0])
    assert torch.equal(arrived, moved[order]) and num_bytes == 2 * TOKEN + BITMAP
    arrived, num_bytes = cross(codec, moved, [5, 0, 9])
    assert torch.equal(arrived, moved) and num_bytes == BITMAP


def test_an_infinite_threshold_sends_the_first_epoch_alone() -> None:
    codec, first = Reuse(threshold=math.inf), hidden()
    cross(codec, first, [0, 1, 2])
    arrived, num_bytes = cross(codec, hidden(1), [0, 1, 3])
    assert torch.equal(arrived[:2], first[:2]) and torch.equal(arrived[2], hidden(1)[2])
    assert num_bytes == T * TOKEN + BITMAP


def test_movement_is_measured_from_what_was_last_sent() -> None:
    codec, tensor = Reuse(threshold=0.1), hidden()
    cross(codec, tensor, [0, 1, 2])
    arrived, num_bytes = cross(codec, tensor * 1.06, [0, 1, 2])
    assert torch.equal(arrived, tensor) and num_bytes == BITMAP
    arrived, num_bytes = cross(codec, tensor * 1.12, [0, 1, 2])
    assert torch.equal(arrived, tensor * 1.12) and num_bytes == B * T * TOKEN + BITMAP
    broken = tensor * 1.12
    broken[0, 0] = math.nan
    arrived, _ = cross(codec, broken, [0, 1, 2])
    assert arrived[0, 0].isnan().all(), "what is no number is not hidden"


def test_two_ends_have_the_same_as_one_process() -> None:
    both, sender, receiver = (CodecSettings.from_plain(["reuse", "int8"], "forward").make() for _ in range(3))
    for seed in range(3):
        tensor = hidden() + seed * 0.02 * hidden(seed)
        in_one, num_bytes = cross(both, tensor, [0, 1, 2])
        in_two, in_two_bytes = cross(sender, tensor, [0, 1, 2], receiver)
        assert torch.equal(in_one, in_two) and num_bytes == in_two_bytes
    assert 0 < num_bytes < B * T * (D + 2) + BITMAP
    ends = [codec.state_dict() for codec in (both, sender, receiver)]
    assert all(torch.equal(*pair) for end in ends[1:] for pair in zip(ends[0]["kept"], end["kept"], strict=True))


def test_the_receiver_may_write_to_what_it_gets() -> None:
    codec, tensor = Reuse(threshold=math.inf), hidden()
    arrived, _ = cross(codec, tensor, [0, 1, 2])
    arrived.zero_()
    assert torch.equal(cross(codec, hidden(1), [0, 1, 2])[0], hidden())


def test_state_goes_on_to_the_bit() -> None:
    codec, resumed = Reuse(threshold=0.5), Reuse(threshold=0.5)
    cross(codec, hidden(), [0, 1, 2])
    resumed.load_state_dict(codec.state_dict())
    assert resumed.num_bytes == codec.num_bytes == B * T * TOKEN
    moved = hidden() + 0.3 * hidden(1)
    assert all(
        torch.equal(torch.as_tensor(one), torch.as_tensor(other))
        for one, other in zip(cross(codec, moved, [2, 1, 0]), cross(resumed, moved, [2, 1, 0]), strict=True)
    )


def test_a_copy_goes_on_by_itself_without_taking_the_memory_twice() -> None:
    codec = Reuse(threshold=0)
    cross(codec, hidden(), [0, 1, 2])
    copied = copy.deepcopy(codec)
    shared = zip(codec.state_dict()["kept"], copied.state_dict()["kept"], strict=True)
    assert all(one.data_ptr() == other.data_ptr() for one, other in shared)
    cross(copied, hidden(1), [0, 1, 2])
    assert torch.equal(torch.stack(codec.state_dict()["kept"]), hidden())
    assert torch.equal(torch.stack(copied.state_dict()["kept"]), hidden(1))


def test_planning_counts_the_first_epoch() -> None:
    codec = CodecSettings.from_plain(["reuse", "int8"], "forward").make()
    tensor = torch.zeros(B, T, D, device="meta")
    arrived, num_bytes = cross(codec, tensor, [0, 1, 2])
    assert arrived.shape == tensor.shape and arrived.is_meta
    assert num_bytes == B * T * (D + 2) + BITMAP
    assert codec.state_dict() == {}


def test_room_is_for_the_first_examples_and_others_are_sent_whole() -> None:
    codec = Reuse(threshold=math.inf, max_gib=2.5 * T * TOKEN / 2**30)
    cross(codec, hidden(), [0, 1, 2])
    assert codec.num_bytes == 2 * T * TOKEN
    arrived, num_bytes = cross(codec, hidden(1), [0, 1, 2])
    assert torch.equal(arrived[:2], hidden()[:2]) and torch.equal(arrived[2], hidden(1)[2])
    assert num_bytes == T * TOKEN + BITMAP and codec.num_bytes == 2 * T * TOKEN


@pytest.mark.parametrize("more", [{"kind": CallKind.EVALUATE}, {"kind": CallKind.GENERATE}, {"place": 1}], ids=str)
def test_other_calls_are_sent_whole_and_leave_no_trace(more: dict[str, Any]) -> None:
    codec = Reuse(threshold=math.inf)
    cross(codec, hidden(), [0, 1, 2])
    arrived, num_bytes = cross(codec, hidden(1), [0, 1, 2], **more)
    assert torch.equal(arrived, hidden(1)) and num_bytes == B * T * TOKEN
    assert torch.equal(cross(codec, hidden(2), [0, 1, 2])[0], hidden())


def test_data_without_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="needs data whose examples have ids"):
        Reuse().encode(hidden(), context_of(hidden(), None))


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"codec": "reuse", "threshold": -1}, "threshold is -1; give a relative distance"),
        ({"codec": "reuse", "threshold": math.nan}, "threshold is nan"),
        ({"codec": "reuse", "max_gib": 0}, "max_gib is 0; give a positive number"),
        ({"codec": "reuse", "error_feedback": True}, "error_feedback"),
        (["reuse", {"codec": "gaussian", "noise_rms": 1.0}], "cannot follow reuse"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_one_sentence(setting: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        CodecSettings.from_plain(setting, "forward")
