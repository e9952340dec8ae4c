"""The norms of a part's gradients come with the answer to the last backward pass of a step, which both parties take at once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from splitlearn.boundary import Boundary, CallKind, Parcel, find_routes
from splitlearn.cut import Placement
from splitlearn.parties import RemotePart
from splitlearn.training import SplitCausalLM
from splitlearn.training.part_owner import PartElsewhere
from tests.training.stand_in import stand_in
from tests.training.test_microbatches import Noted
from tests.training.test_remote_steps import loader

Checkpoint = Callable[..., Path]


class NotesOwnSteps(Callback):
    """Notes among the messages when the optimizer has stepped the parameters that are here."""

    def __init__(self, connection: Noted) -> None:
        self._connection = connection

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self._connection.order.append("own step"))


@pytest.fixture
def connect(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], tuple[SplitCausalLM, RemotePart]]:
    """Makes a module whose trunk is elsewhere, over a connection that notes what is posted and awaited."""
    monkeypatch.setattr("tests.training.stand_in.InProcessConnection", Noted)

    def connected(microbatches: int) -> tuple[SplitCausalLM, RemotePart]:
        torch.manual_seed(0)
        module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4, microbatches=microbatches)
        trunk, _ = stand_in(tiny_checkpoint("llama"), (2, 4), module.settings, module.generators)
        module.connect({"trunk": cast(PartElsewhere, trunk)})
        return module, trunk

    return connected


@pytest.mark.parametrize(("accumulated", "microbatches"), [(1, 1), (1, 2), (3, 2)])
def test_the_question_for_the_norms_follows_the_last_gradient_of_a_step(
    accumulated: int, microbatches: int, connect: Callable[[int], tuple[SplitCausalLM, RemotePart]]
) -> None:
    module, trunk = connect(microbatches)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        callbacks=[NotesOwnSteps(cast(Noted, trunk.connection))],
        accumulate_grad_batches=accumulated,
        gradient_clip_val=0.05,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, loader(2 * accumulated))
    order = cast(Noted, trunk.connection).order
    # The gradients and the order of a step are sent before the parameters that are here are stepped.
    batch = [("forward", microbatches), *[("wait", 1), ("backward", 1)] * microbatches]
    step = [*batch, ("wait", microbatches)] * (accumulated - 1)
    # The answers to the gradients, and the norms.
    step += [*batch, ("ask_norms", 1), ("wait", microbatches + 1), ("step", 1), ("own step", 1)]
    counted = [(kind, len(list(group))) for kind, group in groupby(order[order.index("forward") :])]
    assert counted == step * 2


def test_without_a_last_gradient_the_norms_are_asked_for_apart(
    connect: Callable[[int], tuple[SplitCausalLM, RemotePart]],
) -> None:
    _, trunk = connect(1)
    connection = cast(Noted, trunk.connection)
    trunk.owner.expect_norms(1.0)
    kept = [send(trunk) for _ in range(2)]
    kept.pop().sum().backward()
    assert "ask_norms" not in connection.order, "another forward call may have its backward pass yet"
    assert trunk.owner.gradient_norms(1.0)
    assert connection.order[-2:] == ["ask_norms", "wait"]


def test_a_gradient_after_the_question_is_an_error(connect: Callable[[int], tuple[SplitCausalLM, RemotePart]]) -> None:
    _, trunk = connect(1)
    trunk.owner.expect_norms(0.5)
    send(trunk).sum().backward()
    late = send(trunk)
    with pytest.raises(RuntimeError, match="a backward pass follows the question for the norms of its step"):
        late.sum().backward()


def test_a_run_forgets_the_question_of_one_that_was_interrupted(
    connect: Callable[[int], tuple[SplitCausalLM, RemotePart]],
) -> None:
    module, trunk = connect(1)
    # The run before was interrupted between the announcement and the backward pass. This one neither clips nor logs.
    trunk.owner.expect_norms(0.5)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, loader(1))
    assert "step" in cast(Noted, trunk.connection).order
    assert "ask_norms" not in cast(Noted, trunk.connection).order


def send(part: RemotePart) -> torch.Tensor:
    """Run the part between two boundaries, as training does."""
    below, above = (Boundary(route) for route in find_routes(Placement.u_shaped(num_gpus=0)))
    ticket = below.send(Parcel(torch.ones(1, 3, 64)), CallKind.TRAIN)
    parcel, _ = above.receive(part.receive(part.send(ticket, (below, above), {}, {})), torch.device("cpu"))
    return parcel.hidden_BTD
