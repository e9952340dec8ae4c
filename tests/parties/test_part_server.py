"""What a part's server refuses, each time with one sentence, and what it lets go of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.boundary import Boundary, CallKind, Parcel, find_routes
from splitlearn.cut import Placement
from splitlearn.loading import ModelRequest
from splitlearn.parties import (
    InProcessConnection,
    PartServer,
    PartyError,
    RemotePart,
    ServedPart,
    ServerLimits,
    Sharing,
    join,
    join_parts,
)
from splitlearn.randomness import NamedGenerators
from splitlearn.training import TrainingSettings

CUT = (2, 4)
Checkpoint = Callable[..., Path]


def serve(checkpoint: Path, settings: TrainingSettings | None = None, **limits: Any) -> PartServer:
    return PartServer(ServedPart(ModelRequest(str(checkpoint), *CUT), "trunk", settings), ServerLimits(**limits))


def remote(
    server: PartServer, checkpoint: Path, settings: TrainingSettings | None = None, cut: tuple[int, int] = CUT
) -> RemotePart:
    opened = ModelRequest(str(checkpoint), *cut).open(["bottom", "top"])
    return join(InProcessConnection(server, "alice"), opened, settings or TrainingSettings(), NamedGenerators(3))


def send(part: RemotePart, hidden_BTD: torch.Tensor, **context: Any) -> torch.Tensor:
    """Run the part between two boundaries, as a run does."""
    below, above = (Boundary(route) for route in find_routes(Placement.u_shaped(num_gpus=0)))
    ticket = below.send(Parcel(hidden_BTD, **context), CallKind.TRAIN)
    call = part.send(ticket, (below, above), {}, context)
    parcel, _ = above.receive(part.receive(call), torch.device("cpu"))
    return parcel.hidden_BTD


@pytest.mark.parametrize(
    ("client", "sentence"),
    [
        ({"cut": (3, 4)}, r"split\.point_1 is 2 at the server, but 3 with alice; both must have the same settings"),
        ({"settings": {"optimizer": {"weight_decay": 0.5}}}, r"optimizer\.parts\.trunk\.weight_decay is 0\.01 at the server"),
        (
            {"settings": {"peft": {"method": "lora"}}},
            "what of the part is trained is 'full' at the server, but 'adapters' with",
        ),
        ({"settings": {"boundary": "int8"}}, r"boundary\.cut_1\.forward is 'exact' at the server, but 'int8' with alice"),
        ({"model": "gpt2"}, "the model's configuration is"),
    ],
)
def test_a_client_with_another_plan_is_told_the_difference(
    client: dict[str, Any], sentence: str, tiny_checkpoint: Checkpoint
) -> None:
    server = serve(tiny_checkpoint("llama"))
    settings = TrainingSettings.from_plain(**client.get("settings", {}))
    with pytest.raises(PartyError, match=sentence):
        remote(server, tiny_checkpoint(client.get("model", "llama")), settings, client.get("cut", CUT))


def test_a_client_that_wants_another_order_is_told(tiny_checkpoint: Checkpoint) -> None:
    checkpoint = tiny_checkpoint("llama")
    served = ServedPart(ModelRequest(str(checkpoint), *CUT), "trunk")
    server = PartServer(served, sharing=Sharing(("alice", "bob"), "concurrent", 4))
    opened = ModelRequest(str(checkpoint), *CUT).open(["bottom", "top"])
    alone = serve(checkpoint)

    def greet(server: PartServer, client: str, order: str | None) -> bool:
        connection = InProcessConnection(server, client)
        parts = join_parts(connection, opened, TrainingSettings(), NamedGenerators(3), ["trunk"], order=order)
        return parts["trunk"].welcome.is_shared

    with pytest.raises(PartyError, match="order is 'concurrent' at the server, but 'sequential' with alice; both must have"):
        greet(server, "alice", "sequential")
    assert greet(server, "alice", "concurrent")
    # Most clients do not mind, and a server with one client has no order.
    assert greet(server, "bob", None)
    assert not greet(alone, "alice", "sequential")


@pytest.mark.parametrize(
    ("shape", "context", "sentence"),
    [
        ((1, 3, 60), {}, r"smashed data of the shape \(1, 3, 60\), but this model's are \(rows, tokens, 64\)"),
        ((5, 3, 64), {}, "alice sent 5 rows of 3 tokens; this server takes at most 4 rows of 8"),
        ((1, 3, 64), {"attention_mask": torch.ones(1, 4)}, r"a mask of the shape \(1, 4\), not \(1, 3\)"),
        (
            (1, 3, 64),
            {"position_ids": torch.tensor([[0, 1, 500]])},
            "positions from 0 to 500; this model's lie between 0 and 127",
        ),
    ],
)
def test_smashed_data_that_do_not_fit_are_refused(
    shape: tuple[int, ...], context: dict[str, Any], sentence: str, tiny_checkpoint: Checkpoint
) -> None:
    checkpoint = tiny_checkpoint("llama")
    part = remote(serve(checkpoint, max_rows=4, max_tokens=8), checkpoint)
    with pytest.raises(PartyError, match=sentence):
        send(part, torch.zeros(shape), **context)
    assert send(part, torch.zeros(1, 3, 64)).shape == (1, 3, 64), "the conversation goes on"


def test_numbers_that_are_not_finite_are_refused(tiny_checkpoint: Checkpoint) -> None:
    checkpoint = tiny_checkpoint("llama")
    part = remote(serve(checkpoint), checkpoint)
    with pytest.raises(PartyError, match="numbers that are not finite"):
        send(part, torch.full((1, 3, 64), float("nan")))


def test_graphs_are_bounded_and_let_go_of(tiny_checkpoint: Checkpoint) -> None:
    checkpoint = tiny_checkpoint("llama")
    part = remote(serve(checkpoint, max_pending=2), checkpoint)
    connection = part.connection
    assert isinstance(connection, InProcessConnection) and connection.conversation.session is not None
    kept = [send(part, torch.zeros(1, 3, 64)) for _ in range(2)]
    with pytest.raises(PartyError, match="2 forward calls of alice wait for their backward pass, and at most 2 may"):
        send(part, torch.zeros(1, 3, 64))
    # An output that nobody holds any more will have no backward pass; the server is told with the next message.
    del kept[0]
    kept.append(send(part, torch.zeros(1, 3, 64)))
    kept.pop().sum().backward()
    assert len(connection.conversation.session.pending) == 1


def test_the_server_is_told_no_seed_but_its_own(tiny_checkpoint: Checkpoint) -> None:
    checkpoint = tiny_checkpoint("llama")
    server = serve(checkpoint)
    remote(server, checkpoint)
    assert server.served.prepared is not None
    theirs, ours = server.served.prepared.generators, NamedGenerators(3)
    assert theirs.seed_of("trunk") == ours.seed_of("trunk")
    assert theirs.seed != ours.seed and theirs.seed_of("bottom") != ours.seed_of("bottom")


def test_a_stand_in_writes_no_file(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    with pytest.raises(ValueError, match="the trunk is held by the server of the trunk and has no weights here"):
        remote(serve(checkpoint), checkpoint).save(tmp_path / "trunk.pt")
    assert list(tmp_path.iterdir()) == []


def test_only_the_trunk_is_served(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="part is 'bottom'; a server holds the trunk"):
        ServedPart(ModelRequest(str(tiny_checkpoint("llama")), *CUT), "bottom")


def test_a_trial_runs_the_part_past_the_boundaries(tiny_checkpoint: Checkpoint) -> None:
    checkpoint = tiny_checkpoint("llama")
    part = remote(serve(checkpoint), checkpoint).eval()
    with torch.no_grad():
        assert torch.equal(part(torch.ones(1, 3, 64)), send(part, torch.ones(1, 3, 64)))
