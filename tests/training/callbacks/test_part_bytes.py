"""The memory of parts in training, against arithmetic."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from splitlearn.cut import Placement
from splitlearn.training import SplitCausalLM, bytes_by_party
from splitlearn.training.callbacks import PartBytes, StepPhases
from tests.tiny_models import token_ids
from tests.training.test_module import loader, trainer
from tests.training.test_remote_steps import make_module

Tiny = Callable[..., Path]
PARTIES = {"client": {"parts": ["bottom", "top"]}, "server": {"parts": ["trunk"]}}
U_SHAPED = Placement.resolve(PARTIES, "client", "client", num_gpus=0)


def rows(*shapes: tuple[int, int]) -> Any:
    return loader([{"input_ids": ids, "labels": ids} for ids in (token_ids(*shape) for shape in shapes)])


def fit(checkpoint: Path, folder: Path, data: Any, **settings: Any) -> tuple[PartBytes, SplitCausalLM]:
    made = PartBytes()
    own = {name: settings.pop(name) for name in ("logger", "max_epochs", "accumulate_grad_batches") if name in settings}
    module = SplitCausalLM(str(checkpoint), 2, 4, placement=U_SHAPED, **settings)
    trainer(folder, callbacks=[made], **own).fit(module, data)
    return made, module


def test_parameters_gradients_and_optimizer_state(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    measured, module = fit(tiny_checkpoint("llama", tie_word_embeddings=False), tmp_path, rows((2, 8)))
    assert list(measured.parts) == ["bottom", "trunk", "top"]
    for part in module.parts:
        figures = measured.parts[part.spec.name]
        weights = sum(parameter.nbytes for parameter in part.parameters())
        assert figures["parameter_bytes"] == figures["gradient_bytes"] == weights
        # AdamW's two averages, and a step count of four bytes for each tensor.
        assert figures["optimizer_bytes"] == 2 * weights + 4 * len(list(part.parameters()))
        assert figures["activation_bytes"] > 0


def test_a_shared_tensor_counts_for_the_lower_part(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    tied, _ = fit(tiny_checkpoint("llama", tie_word_embeddings=True), tmp_path, rows((2, 8)))
    apart, module = fit(tiny_checkpoint("llama", tie_word_embeddings=False), tmp_path, rows((2, 8)))
    head = module.parts[2].model.get_output_embeddings().weight.nbytes
    for name in ("parameter_bytes", "gradient_bytes"):
        assert tied.parts["top"][name] == apart.parts["top"][name] - head
        assert tied.parts["bottom"][name] == apart.parts["bottom"][name]


def test_frozen_parts_have_weights_alone(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    optimizer = {"parts": {"bottom": {"train": False}}}
    measured, module = fit(tiny_checkpoint("llama", tie_word_embeddings=False), tmp_path, rows((2, 8)), optimizer=optimizer)
    weights = module.parts[0].weight_bytes
    expected = {"parameter_bytes": weights, "gradient_bytes": 0, "optimizer_bytes": 0, "activation_bytes": 0}
    assert measured.parts["bottom"] == expected


def test_the_largest_batch_counts(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    largest, _ = fit(checkpoint, tmp_path, rows((3, 20)))
    mixed, _ = fit(checkpoint, tmp_path, rows((1, 20), (2, 9), (3, 20), (2, 4)))
    assert mixed.parts == largest.parts
    assert mixed.batch_shape == (3, 20)


def test_accumulated_batches_are_kept_one_at_a_time(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    one, _ = fit(checkpoint, tmp_path, rows((2, 8)))
    two, _ = fit(checkpoint, tmp_path, rows((2, 8), (2, 8)), accumulate_grad_batches=2)
    assert one.parts == two.parts


def test_recomputed_layers_keep_less(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=False)
    usual, _ = fit(checkpoint, tmp_path, rows((2, 8)))
    recomputed, _ = fit(checkpoint, tmp_path, rows((2, 8)), gradient_checkpointing=True)
    # The trunk keeps the input of each of its two layers, and what they share.
    smashed = 2 * 8 * 64 * 4
    assert 2 * smashed <= recomputed.parts["trunk"]["activation_bytes"] < 4 * smashed
    assert recomputed.parts["trunk"]["activation_bytes"] < usual.parts["trunk"]["activation_bytes"] / 4


def test_parties_are_the_sums_of_their_parts_and_logged(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    measured, _ = fit(tiny_checkpoint("llama", tie_word_embeddings=False), tmp_path, rows((2, 8)), logger=logger, max_epochs=2)
    sums = {name: sum(figures.values()) for name, figures in measured.parts.items()}
    parties = bytes_by_party(measured.parts, U_SHAPED)
    assert parties == {"client": sums["bottom"] + sums["top"], "server": sums["trunk"]}
    with (tmp_path / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row.get("memory/client_gib")]
    assert len(logged) == 2
    assert float(logged[-1]["memory/client_gib"]) * 2**30 == pytest.approx(parties["client"])
    for word, name in (("gradients", "gradient_bytes"), ("optimizer", "optimizer_bytes"), ("activations", "activation_bytes")):
        assert float(logged[-1][f"memory/trunk_{word}_gib"]) * 2**30 == pytest.approx(measured.parts["trunk"][name])


def test_a_resumed_run_keeps_the_largest_figures(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    first, _ = fit(tiny_checkpoint("llama"), tmp_path, rows((3, 20)))
    second = PartBytes()
    second.load_state_dict(first.state_dict())
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    trainer(tmp_path, callbacks=[second]).fit(module, rows((1, 4)))
    assert second.parts == first.parts and second.batch_shape == (3, 20)


def test_a_part_elsewhere_is_left_out(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama", tie_word_embeddings=False)
    module, measured, phases = make_module(checkpoint, {"placement": U_SHAPED}, remote=True), PartBytes(), StepPhases()
    trainer(tmp_path, callbacks=[measured, phases]).fit(module, rows((2, 8), (2, 8)))
    here, _ = fit(checkpoint, tmp_path, rows((2, 8)))
    assert measured.parts == {name: here.parts[name] for name in ("bottom", "top")}
    assert bytes_by_party(measured.parts, U_SHAPED).keys() == {"client"}
    summary = phases.summary()
    assert summary is not None and summary["trunk"]["median_s"] > 0, "how long this party waits for it"
    computed, waited, step = (summary[name]["median_s"] for name in ("at_servers", "waiting_for_servers", "step"))
    assert 0 < computed < waited < step


def test_another_module_is_refused() -> None:
    with pytest.raises(TypeError, match="PartBytes measures the parts of a SplitCausalLM, not of a LightningModule"):
        PartBytes().on_train_start(Trainer(logger=False), LightningModule())
