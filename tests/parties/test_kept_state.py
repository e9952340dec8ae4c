"""What a server has kept is gone on from by a server that is started anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.checkpoint import CheckpointError
from splitlearn.loading import ModelRequest
from splitlearn.parties import InProcessConnection, PartServer, PartyError, ServedPart, Sharing, join, read_kept_state
from splitlearn.randomness import NamedGenerators
from splitlearn.training import StepOrder, TrainingSettings
from tests.parties.test_part_server import send

CUT = (2, 4)
LORA = TrainingSettings.from_plain(peft={"method": "lora", "settings": {"r": 2, "target_modules": "all-linear"}})
Checkpoint = Callable[..., Path]


def serve(checkpoint: Path, settings: TrainingSettings | None = None, **more: Any) -> PartServer:
    return PartServer(ServedPart(ModelRequest(str(checkpoint), *CUT), "trunk", settings), **more)


def train(server: PartServer, checkpoint: Path, settings: TrainingSettings | None = None) -> None:
    """Have a part take a step as its run's client does."""
    opened = ModelRequest(str(checkpoint), *CUT).open(["bottom", "top"])
    part = join(InProcessConnection(server), opened, settings or TrainingSettings(), NamedGenerators(3), run_id="one")
    part.owner.zero_gradients()
    send(part, torch.ones(1, 3, 64)).sum().backward()
    part.owner.apply(StepOrder(server.num_steps, {group["name"]: 1e-3 for group in part.owner.group_settings()}))


def tensors(server: PartServer) -> dict[str, torch.Tensor]:
    assert server.served.prepared is not None
    state: dict[str, torch.Tensor] = server.served.prepared.owner.state()["state_dict"]
    return state


@pytest.mark.parametrize("settings", [None, LORA], ids=["full", "LoRA"])
def test_a_server_goes_on_from_what_it_has_kept(
    settings: TrainingSettings | None, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint("llama")
    first = serve(checkpoint, settings)
    train(first, checkpoint, settings)
    second = serve(checkpoint, settings)
    second.go_on(read_kept_state(first.save(tmp_path), ["trunk"]))
    assert second.num_steps == 1 and second.run_id == "one"
    # The run's own client takes the next step with either.
    for server in (first, second):
        train(server, checkpoint, settings)
        assert server.num_steps == 2
    assert tensors(second).keys() == tensors(first).keys()
    assert all(tensor.equal(tensors(first)[name]) for name, tensor in tensors(second).items())


def test_what_is_no_state_of_this_part_is_refused(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    first = serve(checkpoint)
    train(first, checkpoint)
    file = first.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"trunk.ckpt is of the trunk, but this server holds the trunk and top; give"):
        read_kept_state(file, ["trunk", "top"])
    with pytest.raises(ValueError, match="state is given, but several clients train the trunk"):
        serve(checkpoint, sharing=Sharing(("alice",), "sequential", 4)).go_on(read_kept_state(file, ["trunk"]))
    with pytest.raises(CheckpointError, match="the state is of a part with other base weights; set model, split and peft"):
        serve(checkpoint, LORA).go_on(read_kept_state(file, ["trunk"]))
    for damage, words in ({"num_steps": "x"}, "num_steps is missing"), ({"state_dict": {"a": 1}}, "else than tensors"):
        torch.save({**torch.load(file, weights_only=True), **damage}, tmp_path / "damaged.ckpt")
        with pytest.raises(CheckpointError, match=words):
            read_kept_state(tmp_path / "damaged.ckpt", ["trunk"])
    torch.save([1], tmp_path / "damaged.ckpt")
    with pytest.raises(CheckpointError, match=r"damaged.ckpt is no state of a server's part; give"):
        read_kept_state(tmp_path / "damaged.ckpt", ["trunk"])


def test_another_run_does_not_go_on_with_it(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    first = serve(checkpoint)
    train(first, checkpoint)
    second = serve(checkpoint)
    second.go_on(read_kept_state(first.save(tmp_path), ["trunk"]))
    opened = ModelRequest(str(checkpoint), *CUT).open(["bottom", "top"])
    part = join(InProcessConnection(second), opened, TrainingSettings(), NamedGenerators(3), run_id="another")
    with pytest.raises(PartyError, match="the trunk has taken 1 steps in another run"):
        part(torch.zeros(1, 3, 64))
