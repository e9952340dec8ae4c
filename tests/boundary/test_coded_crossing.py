"""What codecs are told of a crossing, and that autograd does not see them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitlearn.boundary import U_SHAPED, Boundary, CallKind, Codec, CodecContext, CodecSettings, Columns, Parcel
from splitlearn.randomness import NamedGenerators

CPU = torch.device("cpu")
SHAPE_BTD = (2, 3, 32)
LOSSY = ["int8", "int4", "int4_hadamard", "topk", ["topk", "int8"], ["hadamard", {"codec": "int3", "group_size": None}]]


def make(setting: Any) -> Codec:
    return CodecSettings.from_plain(setting, "forward").make()


def cross(
    boundary: Boundary, hidden_BTD: torch.Tensor, rows: list[int] | None = None, kind: CallKind = CallKind.TRAIN, **context: Any
) -> torch.Tensor:
    rows_B = None if rows is None else torch.tensor(rows)
    received, _ = boundary.receive(boundary.send(Parcel(hidden_BTD, **context), kind, rows_B=rows_B), CPU)
    return received.hidden_BTD


@pytest.mark.parametrize("setting", LOSSY, ids=str)
def test_gradients_pass_as_if_nothing_were_encoded(setting: Any) -> None:
    leaf_BTD = torch.randn(SHAPE_BTD, requires_grad=True)
    gradient_BTD = torch.randn(SHAPE_BTD)
    received_BTD = cross(Boundary(U_SHAPED[0], codec=make(setting)), leaf_BTD)
    assert not torch.equal(received_BTD, leaf_BTD)
    received_BTD.backward(gradient_BTD)
    assert torch.equal(leaf_BTD.grad, gradient_BTD)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", LOSSY, ids=str)
def test_the_gradients_codec_leaves_smashed_data_alone(setting: Any) -> None:
    leaf_BTD = torch.randn(SHAPE_BTD, requires_grad=True)
    received_BTD = cross(Boundary(U_SHAPED[0], gradient_codec=make(setting)), leaf_BTD)
    assert torch.equal(received_BTD, leaf_BTD)
    gradient_BTD = torch.randn(SHAPE_BTD)
    received_BTD.backward(gradient_BTD)
    context = CodecContext(CallKind.TRAIN, "cut_1", "gradient", gradient_BTD.shape)
    codec = make(setting)
    assert torch.equal(leaf_BTD.grad, codec.decode(codec.encode(gradient_BTD, context), torch.float32, context))  # type: ignore[arg-type]


class Listening(Codec):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[CodecContext] = []

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        self.told.append(context)
        return {"values": tensor}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        self.told.append(context)
        return columns["values"]


def test_both_ends_are_told_the_same() -> None:
    forward, backward, generators = Listening(), Listening(), NamedGenerators(7)
    boundary = Boundary(U_SHAPED[1], None, forward, backward, generators)
    mask_BT = torch.tensor([[1, 1, 0], [1, 1, 1]])
    leaf_BTD = torch.randn(SHAPE_BTD, requires_grad=True)
    cross(boundary, leaf_BTD, rows=[5, 9], attention_mask=mask_BT).sum().backward()
    for payload, codec in {"activation": forward, "gradient": backward}.items():
        for context in codec.told:
            assert (context.kind, context.cut, context.payload, context.place) == (CallKind.TRAIN, "cut_2", payload, 0)
            assert context.shape == SHAPE_BTD and context.rows_B is not None and context.rows_B.tolist() == [5, 9]
            assert context.token_mask is not None and torch.equal(context.token_mask, mask_BT.bool())
            assert context.generator(CPU) is generators.generator(f"cut_2/{payload}")
        assert len(codec.told) == 2


def test_recorded_outputs_have_places_of_their_own() -> None:
    codec = Listening()
    logits = torch.randn(6, 4)
    boundary = Boundary(U_SHAPED[1], codec=codec)
    boundary.receive(
        boundary.send(Parcel(torch.zeros(SHAPE_BTD)), CallKind.TRAIN, {"trunk": {"router_logits": (logits,)}}), CPU
    )
    assert [(context.place, context.shape) for context in codec.told] == [(0, SHAPE_BTD), (1, (6, 4))] * 2


def feedback() -> Boundary:
    return Boundary(U_SHAPED[0], codec=make({"codec": "topk", "share": 1 / 32, "error_feedback": True}))


def test_error_feedback_sends_later_what_was_lost_of_an_example() -> None:
    boundary = feedback()
    hidden_BTD = torch.tensor([[[4.0, 3.0] + [0.0] * 30]])
    assert cross(boundary, hidden_BTD, [7])[0, 0, :2].tolist() == [4, 0]
    # Another example has lost nothing yet.
    assert cross(boundary, hidden_BTD, [8])[0, 0, :2].tolist() == [4, 0]
    # 3 + 3 is the largest now.
    assert cross(boundary, hidden_BTD, [7])[0, 0, :2].tolist() == [0, 6]
    # Nothing is carried into or out of evaluation.
    assert cross(boundary, hidden_BTD, kind=CallKind.EVALUATE)[0, 0, :2].tolist() == [4, 0]


def test_with_error_feedback_the_mean_over_epochs_is_what_was_meant() -> None:
    hidden_BTD = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0))
    boundary, plain = feedback(), Boundary(U_SHAPED[0], codec=make({"codec": "topk", "share": 1 / 32}))
    means = [torch.stack([cross(each, hidden_BTD, [0, 1, 2]) for _ in range(200)]).mean(0) for each in (boundary, plain)]
    errors = [float((mean - hidden_BTD).norm() / hidden_BTD.norm()) for mean in means]
    assert errors[0] < 0.2 < 0.7 < errors[1]


def test_padding_and_other_lengths_carry_no_error() -> None:
    boundary = feedback()
    hidden_BTD = torch.ones(1, 3, 32)
    cross(boundary, hidden_BTD, [0], attention_mask=torch.tensor([[1, 1, 0]]))
    state = boundary.codec_states()["cut_1/activation"]
    assert state["rows"].tolist() == [0]
    assert state["errors"][0].sum(-1).tolist() == [31, 31, 0]
    # The same example in a batch that is padded to more, then to less.
    assert cross(boundary, torch.ones(1, 5, 32), [0]).shape == (1, 5, 32)
    assert cross(boundary, torch.ones(1, 2, 32), [0]).shape == (1, 2, 32)


def test_error_feedback_needs_examples_with_ids() -> None:
    with pytest.raises(ValueError, match="error feedback needs examples with ids that are the same in every epoch"):
        cross(feedback(), torch.zeros(SHAPE_BTD))


def test_error_feedback_goes_on_from_its_state() -> None:
    one, other = feedback(), feedback()
    hidden_BTD = torch.randn(SHAPE_BTD)
    cross(one, hidden_BTD, [0, 1])
    other.load_codec_states(one.codec_states())
    assert torch.equal(cross(one, hidden_BTD, [1, 0]), cross(other, hidden_BTD, [1, 0]))
    for damaged in ({"rows": torch.tensor([1]), "errors": []}, {"rows": 3, "errors": [hidden_BTD]}, {"noise": 1}):
        with pytest.raises(ValueError, match="the state of the codec topk with error feedback is damaged"):
            other.load_codec_states({"cut_1/activation": damaged})
    with pytest.raises(ValueError, match="the codec exact keeps no state, but is given rows"):
        other.load_codec_states({"cut_1/gradient": {"rows": torch.tensor([1])}})


def test_noise_is_not_taken_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from splitlearn.boundary.codecs import Int8

    monkeypatch.setattr(Int8, "takes_error_feedback", False)
    for codec in ("int8", ["topk", "int8"]):
        with pytest.raises(ValueError, match=r"^forward.error_feedback is true, but .*int8 takes none"):
            CodecSettings.from_plain({"codec": codec, "error_feedback": True}, "forward")
