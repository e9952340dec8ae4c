"""Training over encoded boundaries: what codecs remember is kept in checkpoints, and a run goes on with the codecs it had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitlearn.boundary import CallKind
from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import Placement
from splitlearn.training import SplitCausalLM
from tests.training.test_resume import BATCH, BATCHES, ROWS, Losses, check, run

TOPK = {"codec": "topk", "share": 0.25, "error_feedback": True}
CODED = {"forward": TOPK, "backward": "bf16", "cut_2": {"forward": "int8", "backward": {**TOPK, "share": 0.5}}}


def test_a_run_with_error_feedback_is_taken_up_to_the_bit(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    model = tiny_checkpoint("llama")
    whole = run(model, tmp_path / "whole", boundary=CODED)
    exact = run(model, tmp_path / "exact")
    assert whole[1].losses != exact[1].losses
    with pytest.raises(SystemExit):
        run(model, tmp_path / "stopped", boundary=CODED, signal_at=BATCHES + 2)
    path = tmp_path / "stopped" / "last.ckpt"
    states = torch.load(path, weights_only=True)["codecs"]
    assert set(states) == {"cut_1/activation", "cut_2/gradient"}
    assert sorted(states["cut_1/activation"]["rows"].tolist()) == list(range(ROWS))
    assert {error.shape for error in states["cut_2/gradient"]["errors"]} == {(9, 64)}
    stopped = Losses()
    stopped.losses = {key: value for key, value in whole[1].losses.items() if key[0] * BATCHES + key[1] < BATCHES + 3}
    module, resumed = run(model, tmp_path / "stopped", boundary=CODED, ckpt_path=path)
    check(whole, [stopped, resumed], module)
    with pytest.raises(
        CheckpointError, match=r"codecs of its checkpoint, but boundary.cut_1.forward was topk .* and is int8; "
    ):
        run(model, tmp_path / "stopped", boundary="int8", ckpt_path=path)
    # Not a step more with the codecs that it did not have.
    with pytest.raises(CheckpointError, match=r"boundary.cut_2.backward was topk .* error feedback and is exact"):
        run(model, tmp_path / "stopped", ckpt_path=path)


def test_a_step_sends_what_the_codecs_make_of_it(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    module, _ = run(tiny_checkpoint("llama"), tmp_path, boundary=CODED, max_steps=1)
    counts = module.composed.meter.totals(CallKind.TRAIN)
    tokens = BATCH * 9
    assert counts["cut_1"]["activation_uplink_bytes"] == tokens * 16 * (2 + 1)
    assert counts["cut_1"]["gradient_downlink_bytes"] == tokens * 64 * 2
    assert counts["cut_2"]["activation_downlink_bytes"] == tokens * (64 + 2)
    assert counts["cut_2"]["gradient_uplink_bytes"] == tokens * 32 * (2 + 1)


def test_generation_sends_encoded_tokens_one_by_one(tiny_checkpoint: Callable[..., Path]) -> None:
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4, boundary="int4_hadamard")
    module.load_parts()
    ids_BT = torch.tensor([[5, 6, 7, 8]])
    module.generate(ids_BT, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    counts = module.composed.meter.totals(CallKind.GENERATE)
    # The prompt, then the first two new tokens; the third ends the answer.
    assert counts["cut_2"]["activation_downlink_bytes"] == (4 + 2) * (32 + 2)
    # Positions go up beside them.
    assert counts["cut_1"]["activation_uplink_bytes"] == (4 + 2) * (32 + 2 + 8)


def test_bad_codecs_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match=r"^boundary.forward.share is 0; give the share of a token's numbers to send"):
        SplitCausalLM("absent", 2, 4, boundary={"forward": {"codec": "topk", "share": 0}})
    with pytest.raises(ValueError, match=r"^boundary.forward is int8, but one party holds all parts"):
        SplitCausalLM("absent", 2, 4, boundary="int8", placement=Placement.one_party(num_gpus=0))
