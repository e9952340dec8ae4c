from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule

from splitlearn.training import SplitCausalLM, bytes_by_party, part_memory
from splitlearn.training.callbacks import MemoryReport, PartBytes
from tests.training.test_module import batches, loader, trainer


def samplers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "memory-sampler"]


def test_every_epoch_is_reported(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a narrow terminal the cells of the table would be wrapped.
    monkeypatch.setenv("COLUMNS", "200")
    module = SplitCausalLM(str(tiny_checkpoint("qwen2", tie_word_embeddings=True)), 2, 4)
    made = trainer(tmp_path, callbacks=[MemoryReport()], max_epochs=2)
    made.fit(module, loader(batches([2])))
    report = json.loads((tmp_path / "memory_report.json").read_text())
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2]
    assert report["epochs"][1]["parts"] == [each.to_dict() for each in part_memory(module.parts)]
    assert report["epochs"][1]["process"]["label"] == "epoch 2"
    printed = capsys.readouterr().out
    assert printed.count("memory, epoch") == 2 and "layers 0-1" in printed
    logged = made.logged_metrics
    assert logged["memory/trunk_gib"] * 2**30 == pytest.approx(module.parts[1].weight_bytes, rel=1e-6)
    assert logged["memory/peak_rss_gib"] >= logged["memory/rss_gib"] > 0
    assert samplers() == []


def test_what_training_adds_stands_beside_the_weights(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    module, measured = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4), PartBytes()
    trainer(tmp_path, callbacks=[measured, MemoryReport(print_table=False)], max_epochs=2).fit(module, loader(batches([2, 2])))
    report = json.loads((tmp_path / "memory_report.json").read_text())
    assert [epoch["step"] for epoch in report["epochs"]] == [2, 4]
    for part in report["epochs"][1]["parts"]:
        assert measured.parts[part["name"]].items() <= part.items()
        assert part["gradient_bytes"] == part["weight_bytes"] and part["activation_bytes"] > 0
    assert report["epochs"][1]["parties"] == bytes_by_party(measured.parts, module.placement)
    assert [moment["label"] for moment in report["snapshots"]][-2:] == ["epoch 1", "epoch 2"]


def test_sampling_stops_after_an_error(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    bad = [{"input_ids": batches([2])[0]["input_ids"]}]
    with pytest.raises(KeyError, match="labels"):
        trainer(tmp_path, callbacks=[MemoryReport()]).fit(module, loader(bad))
    assert samplers() == []


def test_other_modules_have_no_parts(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not of a LightningModule"):
        MemoryReport().on_train_epoch_end(trainer(tmp_path), LightningModule())
