"""The holder of a trunk is sent neither token ids nor labels, and holds neither an embedding nor a head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from splitlearn.boundary import BoundaryObserver, CallKind, Parcel
from splitlearn.parties import in_process
from splitlearn.training import SplitCausalLM
from splitlearn.training.part_owner import PartElsewhere
from tests.training.stand_in import stand_in

ROWS, TOKENS, WINDOW = 6, 12, 4
INTEGERS = (torch.int64, torch.int32, torch.int16)


@pytest.fixture
def to_server(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All bytes that the server of a test has got."""
    frames: list[bytes] = []
    carry = in_process._carry

    def record(sent: Iterator[bytes], reader: Any) -> Any:
        kept = list(sent)
        if reader._sender == "client":
            frames.extend(kept)
        return carry(iter(kept), reader)

    monkeypatch.setattr(in_process, "_carry", record)
    return frames


class SeenHidden(BoundaryObserver):
    """Keeps the smashed data that leave the client."""

    def __init__(self, sent: list[torch.Tensor]) -> None:
        self._sent = sent

    def on_send(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        self._sent.append(parcel.hidden_BTD.clone())


def windows(ids_NT: torch.Tensor) -> set[bytes]:
    """A few tokens in a row, as they would stand in memory."""
    rows = [row[start : start + WINDOW] for row in ids_NT for start in range(ids_NT.shape[1] - WINDOW + 1)]
    return {row.to(dtype).numpy().tobytes() for row in rows for dtype in INTEGERS}


def train(checkpoint: Path, ids_NT: torch.Tensor) -> tuple[bytes, set[str]]:
    """Train and validate with a server; return the first smashed data's bytes, and the names of what the server holds."""
    torch.manual_seed(0)
    module = SplitCausalLM(str(checkpoint), 2, 4)
    trunk, server = stand_in(checkpoint, (2, 4), module.settings, module.generators)
    module.connect({"trunk": cast(PartElsewhere, trunk)})
    module.load_parts()
    sent: list[torch.Tensor] = []
    module.composed.boundaries[0].observers.append(SeenHidden(sent))
    rows = [{"input_ids": ids_T, "labels": ids_T} for ids_T in ids_NT]
    loader: DataLoader[Any] = DataLoader(rows, batch_size=2)  # type: ignore[arg-type]
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    Trainer(accelerator="cpu", max_epochs=1, **quiet).fit(module, loader, loader)
    assert server.num_steps == ROWS // 2
    assert [part.part for part in server.served.receipt.parts] == ["trunk"]
    assert server.served.prepared is not None
    return sent[0].numpy().tobytes(), {name for name, _ in server.served.prepared.parts[0].named_parameters()}


def test_neither_ids_nor_labels_nor_an_embedding(tiny_checkpoint: Callable[..., Path], to_server: list[bytes]) -> None:
    # None of the positions, which a server may be sent, and no token twice in a row.
    ids_NT = torch.randint(TOKENS + 1, 90, (ROWS, TOKENS), generator=torch.Generator().manual_seed(3))
    smashed, held = train(tiny_checkpoint("llama"), ids_NT)
    got = b"".join(to_server)
    assert smashed[:64] in got, "what is sent is looked through"
    assert not [window for window in windows(ids_NT) if window in got]
    assert held
    assert not [name for name in held if "embed" in name or "head" in name]
