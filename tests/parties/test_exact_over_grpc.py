"""A trunk behind a connection over mutual TLS takes the steps that it would take in one process, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from splitlearn.certificates import Identity
from splitlearn.loading import ModelRequest
from splitlearn.parties import Conversation, GrpcConnection, PartServer, PartyService, ServedPart, add_port, join
from splitlearn.training import SplitCausalLM, TrainingSettings
from splitlearn.training.part_owner import PartElsewhere
from tests.parties.conftest import LIMITS, QUICK
from tests.parties.cut_link import CutLink
from tests.training.test_remote_steps import LORA, LossLog, loader

Identify = Callable[..., Identity]
CUT = (2, 4)
STEPS = 8


class Resets(Callback):
    """Cuts the connection in some steps."""

    def __init__(self, link: CutLink, steps: tuple[int, ...]) -> None:
        self._link, self._steps = link, steps

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx in self._steps:
            # Now, in the forward call, and in one of the answers.
            self._link.cut_after = [5_000, 9_000]
            self._link.cut()


@contextmanager
def served(checkpoint: Path, settings: TrainingSettings, identity: Identity) -> Iterator[int]:
    """Serve a trunk in this process, and yield its port."""
    held = PartServer(ServedPart(ModelRequest(str(checkpoint), *CUT), "trunk", settings))
    service = PartyService(lambda client: Conversation(held, client or "client"), limits=LIMITS)
    server = grpc.server(ThreadPoolExecutor(service.num_threads), handlers=[service], options=QUICK.server_options(LIMITS))
    port = add_port(server, "localhost:0", identity)
    server.start()
    try:
        yield port
    finally:
        service.stop("the test is over", 1.0)
        server.stop(0).wait()


def fit(module: SplitCausalLM, *callbacks: Callback) -> tuple[list[float], dict[str, torch.Tensor]]:
    log = LossLog(draws=False)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        gradient_clip_val=0.05,
        callbacks=[log, *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    torch.manual_seed(1)
    trainer.fit(module, loader(STEPS))
    content: dict[str, Any] = {}
    module.on_save_checkpoint(content)
    return log.losses, content["state_dict"]


@pytest.mark.parametrize("is_cut", [False, True], ids=["calm", "cut"])
def test_steps_are_those_of_one_process(tiny_checkpoint: Callable[..., Path], identity: Identify, is_cut: bool) -> None:
    checkpoint = tiny_checkpoint("llama")
    torch.manual_seed(0)
    settings: dict[str, Any] = {"peft": LORA} if is_cut else {}
    expected_losses, expected = fit(SplitCausalLM(str(checkpoint), *CUT, **settings))
    torch.manual_seed(0)
    module = SplitCausalLM(str(checkpoint), *CUT, **settings)
    with served(checkpoint, module.settings, identity("server")) as port, CutLink(port) as link:
        connection = GrpcConnection(f"localhost:{link.port}", identity("alice"), QUICK, LIMITS, "the server of the trunk")
        opened = ModelRequest(str(checkpoint), *CUT).open(["bottom", "top"])
        trunk = join(connection, opened, module.settings, module.generators)
        module.connect({"trunk": cast(PartElsewhere, trunk)})
        module.load_parts()
        losses, found = fit(module, *([Resets(link, (2, 3, 5))] if is_cut else []))
        connection.close()
    assert losses == expected_losses
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert (connection.reconnects >= 3) == is_cut
