"""Everything that goes from part to part passes a boundary, unchanged and counted."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from splitlearn.boundary import U_SHAPED, Boundary, BoundaryObserver, CallKind, Parcel, Route, TrafficMeter, codec_class
from splitlearn.boundary.routes import Direction
from splitlearn.randomness import NamedGenerators

CPU = torch.device("cpu")
SHAPE_BTD = (2, 3, 8)
HIDDEN_BYTES = 2 * 3 * 8 * 4
NOTHING = dict.fromkeys(
    ("activation_uplink_bytes", "activation_downlink_bytes", "gradient_uplink_bytes", "gradient_downlink_bytes"), 0
)


def parcel_of(seed: int = 0, **context: Any) -> tuple[torch.Tensor, Parcel]:
    generator = torch.Generator().manual_seed(seed)
    leaf_BTD = torch.randn(SHAPE_BTD, generator=generator, requires_grad=True)
    return leaf_BTD, Parcel(leaf_BTD * 2, **context)


def cross(boundary: Boundary, parcel: Parcel, kind: CallKind = CallKind.TRAIN, **more: Any) -> tuple[Parcel, Any]:
    return boundary.receive(boundary.send(parcel, kind, **more), CPU)


def test_values_and_gradients_come_out_to_the_bit() -> None:
    leaf_BTD, parcel = parcel_of()
    received, _ = cross(Boundary(U_SHAPED[0]), parcel)
    assert torch.equal(received.hidden_BTD, parcel.hidden_BTD)
    (received.hidden_BTD**3).sum().backward()
    expected_BTD, direct = parcel_of()
    (direct.hidden_BTD**3).sum().backward()
    assert torch.equal(leaf_BTD.grad, expected_BTD.grad)  # type: ignore[arg-type]


def test_a_rehearsal_carries_trials_and_changes_nothing_of_its_boundary() -> None:
    generators = NamedGenerators(0)
    boundary = Boundary(U_SHAPED[0], codec=codec_class("int8")(), generators=generators)
    boundary.observers.append(BoundaryObserver())
    meter = TrafficMeter()
    rehearsal = boundary.rehearsal(meter, NamedGenerators(1))
    assert boundary.passes_directly(CallKind.TRIAL) and not rehearsal.passes_directly(CallKind.TRIAL)
    _, parcel = parcel_of()
    received, _ = cross(rehearsal, parcel, CallKind.TRIAL)
    expected, _ = cross(boundary, parcel, CallKind.EVALUATE)
    assert torch.equal(received.hidden_BTD, expected.hidden_BTD) and not torch.equal(received.hidden_BTD, parcel.hidden_BTD)
    assert meter.totals(CallKind.TRIAL)["cut_1"]["activation_uplink_bytes"]
    assert boundary.meter.totals(CallKind.TRIAL)["cut_1"] == NOTHING and not rehearsal.observers
    rehearsal.generator("activation", CPU)
    assert not generators.state()["states"]


def test_buffers_are_counted_by_their_real_size_and_way() -> None:
    mask_BT = torch.ones(2, 3, dtype=torch.int64)
    positions_BT = torch.arange(3).expand(2, 3).contiguous()
    boundary = Boundary(U_SHAPED[0])
    _, parcel = parcel_of(attention_mask=mask_BT, position_ids=positions_BT)
    received, _ = cross(boundary, parcel)
    assert received.attention_mask is not None and received.position_ids is not None
    sent = {**NOTHING, "activation_uplink_bytes": HIDDEN_BYTES + 2 * 2 * 3 * 8}
    assert boundary.meter.totals()["cut_1"] == sent
    received.hidden_BTD.sum().backward()
    assert boundary.meter.totals()["cut_1"] == {**sent, "gradient_downlink_bytes": HIDDEN_BYTES}
    assert boundary.meter.totals()["cut_2"] == NOTHING


def test_a_party_that_holds_the_mask_is_not_sent_it_again() -> None:
    boundary = Boundary(U_SHAPED[1])
    _, parcel = parcel_of(attention_mask=torch.ones(2, 3, dtype=torch.int64))
    received, _ = cross(boundary, parcel)
    assert received.attention_mask is parcel.attention_mask
    received.hidden_BTD.sum().backward()
    sent = {**NOTHING, "activation_downlink_bytes": HIDDEN_BYTES, "gradient_uplink_bytes": HIDDEN_BYTES}
    assert boundary.meter.totals()["cut_2"] == sent


def test_what_a_server_relays_over_the_owner_is_counted_both_ways_and_its_mask_once() -> None:
    both_ways = Direction.DOWNLINK, Direction.UPLINK
    boundary = Boundary(Route(2, both_ways, sends_context=True, sends_labels=True))
    _, parcel = parcel_of(attention_mask=torch.ones(2, 3, dtype=torch.bool))
    received, _ = cross(boundary, parcel, labels_BT=torch.zeros(2, 3, dtype=torch.int64))
    received.hidden_BTD.sum().backward()
    assert boundary.meter.totals()["cut_2"] == {
        "activation_downlink_bytes": HIDDEN_BYTES,
        "activation_uplink_bytes": HIDDEN_BYTES + 6 + 48,
        "gradient_uplink_bytes": HIDDEN_BYTES,
        "gradient_downlink_bytes": HIDDEN_BYTES,
    }


def test_frozen_senders_are_given_no_gradient() -> None:
    boundary = Boundary(U_SHAPED[0])
    received, _ = cross(boundary, Parcel(torch.randn(SHAPE_BTD)))
    assert not received.hidden_BTD.requires_grad
    assert boundary.meter.totals()["cut_1"]["gradient_downlink_bytes"] == 0


def test_micro_batches_may_all_be_sent_before_the_first_is_received() -> None:
    boundary = Boundary(U_SHAPED[0])
    (one_BTD, one), (other_BTD, other) = parcel_of(1), parcel_of(2)
    tickets = [boundary.send(parcel, CallKind.TRAIN) for parcel in (one, other)]
    hidden = [boundary.receive(ticket, CPU)[0].hidden_BTD for ticket in tickets]
    (hidden[0].sum() + 3 * hidden[1].sum()).backward()
    assert torch.equal(one_BTD.grad, torch.full(SHAPE_BTD, 2.0))  # type: ignore[arg-type]
    assert torch.equal(other_BTD.grad, torch.full(SHAPE_BTD, 6.0))  # type: ignore[arg-type]


def test_per_layer_outputs_go_beside_the_parcel_once_and_bring_their_gradients_back() -> None:
    boundary = Boundary(U_SHAPED[1])
    leaf_BTD, parcel = parcel_of()
    logits = leaf_BTD.sum(-1)
    outputs = {
        "bottom": {"router_logits": (torch.ones(1),)},
        # The last hidden state is the parcel's own tensor, and must not be sent twice.
        "trunk": {"router_logits": (logits, None), "hidden_states": (parcel.hidden_BTD,)},
    }
    received, arrived = cross(boundary, parcel, layer_outputs=outputs)
    assert arrived["bottom"] is outputs["bottom"]
    assert arrived["trunk"]["router_logits"][1] is None
    assert arrived["trunk"]["hidden_states"][0] is received.hidden_BTD
    assert arrived["trunk"]["router_logits"][0] is not logits
    assert torch.equal(arrived["trunk"]["router_logits"][0], logits)
    assert boundary.meter.totals()["cut_2"]["activation_downlink_bytes"] == HIDDEN_BYTES + logits.nbytes
    arrived["trunk"]["router_logits"][0].sum().backward()
    assert torch.equal(leaf_BTD.grad, torch.ones(SHAPE_BTD))  # type: ignore[arg-type]
    # Nothing depends on the hidden states, so only the router logits' gradient crosses.
    assert boundary.meter.totals()["cut_2"]["gradient_uplink_bytes"] == logits.nbytes


def test_trials_and_cuts_inside_one_party_are_passed_directly() -> None:
    assert Boundary(U_SHAPED[0]).passes_directly(CallKind.TRIAL)
    assert Boundary(Route(1)).passes_directly(CallKind.TRAIN)
    assert not Boundary(U_SHAPED[0]).passes_directly(CallKind.GENERATE)


def test_calls_are_counted_by_kind_and_counts_survive_a_checkpoint() -> None:
    boundary = Boundary(U_SHAPED[0])
    cross(boundary, parcel_of()[1], CallKind.EVALUATE)
    assert boundary.meter.totals(CallKind.TRAIN)["cut_1"] == NOTHING
    counted = boundary.meter.totals(CallKind.EVALUATE)
    assert counted["cut_1"]["activation_uplink_bytes"] == HIDDEN_BYTES
    again = Boundary(U_SHAPED[0])
    again.meter.add_totals(CallKind.EVALUATE, boundary.meter.totals(CallKind.EVALUATE))
    cross(again, parcel_of()[1], CallKind.EVALUATE)
    assert again.meter.totals(CallKind.EVALUATE)["cut_1"]["activation_uplink_bytes"] == 2 * HIDDEN_BYTES
    again.meter.reset(CallKind.EVALUATE)
    assert again.meter.totals(CallKind.EVALUATE)["cut_1"] == NOTHING


def test_codecs_change_values_and_bytes_each_way() -> None:
    boundary = Boundary(U_SHAPED[0], codec=codec_class("int8")(), gradient_codec=codec_class("bf16")())
    leaf_BTD, parcel = parcel_of()
    received, _ = cross(boundary, parcel)
    assert received.hidden_BTD.dtype == torch.float32
    assert not torch.equal(received.hidden_BTD, parcel.hidden_BTD)
    assert torch.allclose(received.hidden_BTD, parcel.hidden_BTD, atol=0.05)
    (received.hidden_BTD * 1.001).sum().backward()
    # The gradient of the decoded values is given back as that of what was sent, in bfloat16.
    assert torch.equal(leaf_BTD.grad, torch.full(SHAPE_BTD, 2 * float(torch.tensor(1.001).bfloat16())))  # type: ignore[arg-type]
    counted = boundary.meter.totals()["cut_1"]
    # One scale of 2 bytes for each token.
    assert counted["activation_uplink_bytes"] == 2 * 3 * 8 + 2 * 3 * 2
    assert counted["gradient_downlink_bytes"] == HIDDEN_BYTES // 2


class Recorder(BoundaryObserver):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_send(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        assert not parcel.hidden_BTD.requires_grad
        self.seen.append(f"{kind} sent at {cut}")

    def on_receive(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        self.seen.append(f"{kind} received at {cut}")

    def on_send_gradient(self, cut: int, gradient_BTD: torch.Tensor) -> None:
        self.seen.append(f"gradient sent at {cut}")

    def on_receive_gradient(self, cut: int, gradient_BTD: torch.Tensor) -> None:
        assert torch.equal(gradient_BTD, torch.ones(SHAPE_BTD))
        self.seen.append(f"gradient received at {cut}")

    def loss_term(self, cut: int, hidden_BTD: torch.Tensor) -> torch.Tensor | None:
        return 0.5 * hidden_BTD.sum()


def test_observers_see_both_ways_and_may_add_to_the_loss() -> None:
    boundary, recorder = Boundary(U_SHAPED[0]), Recorder()
    boundary.observers.append(recorder)
    leaf_BTD, parcel = parcel_of()
    ticket = boundary.send(parcel, CallKind.TRAIN)
    received, _ = boundary.receive(ticket, CPU)
    assert ticket.loss_term is not None
    (received.hidden_BTD.sum() + ticket.loss_term).backward()
    assert recorder.seen == ["train sent at 1", "train received at 1", "gradient sent at 1", "gradient received at 1"]
    assert torch.equal(leaf_BTD.grad, torch.full(SHAPE_BTD, 3.0))  # type: ignore[arg-type]
    assert boundary.send(parcel_of()[1], CallKind.EVALUATE).loss_term is None


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    leaf_BTD, parcel = parcel_of()
    received, _ = cross(Boundary(U_SHAPED[0]), parcel)
    (gradient_BTD,) = torch.autograd.grad((received.hidden_BTD**3).sum(), leaf_BTD, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient_BTD.sum().backward()


def test_a_graph_is_freed_with_its_last_user() -> None:
    # Cycles through autograd would keep a step's activations until the garbage collector comes by.
    gc.collect()
    gc.disable()
    try:
        _, parcel = parcel_of()
        received, _ = cross(Boundary(U_SHAPED[0]), parcel)
        sent = weakref.ref(parcel.hidden_BTD)
        received.hidden_BTD.sum().backward()
        del parcel, received
        assert sent() is None
    finally:
        gc.enable()


def test_noise_is_drawn_apart_for_each_cut_and_direction() -> None:
    class Noise(BoundaryObserver):
        def __init__(self, boundary: Boundary) -> None:
            self.boundary, self.drawn = boundary, torch.empty(0)

        def on_send(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
            self.drawn = torch.randn(4, generator=self.boundary.generator("activation", parcel.hidden_BTD.device))

    drawn: list[list[float]] = []
    for seed in (0, 0, 1):
        generators = NamedGenerators(seed)
        boundaries = [Boundary(route, generators=generators) for route in U_SHAPED]
        # Whether the other direction or torch itself draws in between does not matter.
        torch.randn(len(drawn), generator=boundaries[0].generator("gradient", CPU))
        torch.rand(len(drawn))
        for boundary in boundaries:
            boundary.observers.append(noise := Noise(boundary))
            cross(boundary, parcel_of()[1])
            drawn.append(noise.drawn.tolist())
    assert drawn[:2] == drawn[2:4]
    assert len({tuple(one) for one in drawn}) == 4
    torch.manual_seed(0)
    plain = torch.randn(4, generator=Boundary(U_SHAPED[0]).generator("activation", CPU))
    torch.manual_seed(0)
    assert torch.equal(plain, torch.randn(4)), "without a seed of its own a model draws from torch's generator"
    with pytest.raises(ValueError, match="payload is 'mask'; use 'activation' or 'gradient'"):
        boundary.generator("mask", CPU)
