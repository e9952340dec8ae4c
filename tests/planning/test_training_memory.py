"""The plan's memory of a run, against what a run takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitlearn.cut import PartTraining, Placement
from splitlearn.loading import ModelRequest
from splitlearn.planning import planned_by_party
from splitlearn.training import SplitCausalLM, bytes_by_party
from splitlearn.training.callbacks import PartBytes
from tests.tiny_models import token_ids
from tests.training.test_module import loader, trainer

ROWS, TOKENS = 4, 32
PARTIES = {"client": {"parts": ["bottom", "top"]}, "server": {"parts": ["trunk"]}}
U_SHAPED = Placement.resolve(PARTIES, "client", "client", num_gpus=0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"peft": {"method": "lora"}},
        {"optimizer": {"parts": {"bottom": {"train": False}}}},
        {"optimizer": {"parts": {"trunk": {"train": False}}}},
        {"gradient_checkpointing": True},
        {"max_logits_mib": 0.03},
    ],
    ids=["full", "lora", "frozen bottom", "frozen trunk", "recomputed", "logits in chunks"],
)
def test_it_is_what_a_run_takes(settings: dict[str, Any], tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=False)
    ids_BT, measured = token_ids(ROWS, TOKENS), PartBytes()
    module = SplitCausalLM(str(checkpoint), 2, 4, placement=U_SHAPED, **settings)
    trainer(tmp_path, callbacks=[measured]).fit(module, loader([{"input_ids": ids_BT, "labels": ids_BT}]))
    opened = ModelRequest(str(checkpoint), 2, 4).open()
    ranks = dict.fromkeys(("bottom", "trunk", "top"), 8) if "peft" in settings else {}
    recomputes = settings.get("gradient_checkpointing", False)
    chunk_tokens = module.chunk_tokens(ids_BT.numel())
    assert (chunk_tokens is not None) == ("max_logits_mib" in settings)
    planned = planned_by_party(opened, U_SHAPED, module.trained, ranks, ROWS, TOKENS, recomputes, chunk_tokens)
    taken = bytes_by_party(measured.parts, U_SHAPED)
    assert planned is not None and planned.keys() == taken.keys()
    for party, size in taken.items():
        assert planned[party] == pytest.approx(size, rel=0.02), party


def test_where_there_is_no_plan(tiny_checkpoint: Callable[..., Path]) -> None:
    opened = ModelRequest(str(tiny_checkpoint("llama")), 2, 4).open()
    for what in (PartTraining.NORMS, PartTraining.ADAPTERS):
        trained = {"bottom": PartTraining.FROZEN, "trunk": what, "top": PartTraining.FROZEN}
        assert planned_by_party(opened, U_SHAPED, trained, {}, ROWS, TOKENS) is None
