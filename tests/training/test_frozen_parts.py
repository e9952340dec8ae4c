"""What frozen parts return can be kept, and training takes the same steps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file, save_file

from splitlearn.boundary import CallKind, Handover
from splitlearn.data import TextDataModule
from splitlearn.embedded import resolve_model
from splitlearn.training import SplitCausalLM
from splitlearn.training.frozen_parts import FrozenParts
from tests.tiny_models import token_ids
from tests.training.test_module import trainer

LORA: dict[str, Any] = {"method": "lora", "settings": {"r": 2, "target_modules": "all-linear", "lora_dropout": 0.1}}
FROZEN: dict[str, dict[str, Any]] = {
    "bottom": {"optimizer": {"parts": {"bottom": {"train": False}}}, "peft": {**LORA, "parts": {"bottom": False}}},
    "bottom and trunk": {"peft": {**LORA, "parts": {"bottom": False, "trunk": False}}},
}


class Losses(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(float(outputs["loss"]))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["val_loss"]))


class Calls(Callback):
    """Counts how many rows the parts below are given."""

    def __init__(self) -> None:
        self.rows = 0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.composed.bottom.register_forward_pre_hook(
            lambda module, args: setattr(self, "rows", self.rows + len(args[0]))
        )


def run(folder: Path, packing: str = "joined", **settings: Any) -> tuple[list[float], int]:
    torch.manual_seed(0)
    name = resolve_model("embedded:qwen2_tiny")
    module = SplitCausalLM(name, 2, 6, **settings)
    data = TextDataModule(
        name, "embedded:python_docs", packing=packing, block_size=16, batch_size=4, max_train_blocks=24, max_val_blocks=8
    )
    losses, calls = Losses(), Calls()
    trainer(folder, max_epochs=3, callbacks=[losses, calls], num_sanity_val_steps=0).fit(module, datamodule=data)
    return losses.seen, calls.rows


@pytest.mark.parametrize("packing", ["joined", "isolated"])
@pytest.mark.parametrize("frozen", FROZEN)
def test_losses_are_those_of_a_run_that_keeps_nothing(frozen: str, packing: str, tmp_path: Path) -> None:
    expected, _ = run(tmp_path, packing, **FROZEN[frozen])
    found, num_rows = run(tmp_path, packing, **FROZEN[frozen], activation_cache={"keep": "memory"})
    assert found == pytest.approx(expected, abs=1e-6)
    # All rows once, and the first batches of both sets once more; trying isolation out takes two.
    assert num_rows == 24 + 8 + 4 + 4 + (2 if packing == "isolated" else 0)


@pytest.mark.parametrize("frozen", FROZEN)
def test_a_kept_batch_still_crosses_the_cut_above_the_frozen_parts(frozen: str, tmp_path: Path) -> None:
    module = SplitCausalLM(resolve_model("embedded:qwen2_tiny"), 2, 6, **FROZEN[frozen], activation_cache={"keep": "memory"})
    data = TextDataModule(
        str(module.hparams["model_name_or_path"]), "embedded:python_docs", block_size=16, batch_size=4, max_train_blocks=24
    )
    trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(module, datamodule=data)
    totals = module.composed.meter.totals()
    row_bytes = 16 * module.composed.bottom.blueprint.config.hidden_size * 4
    kept_below, always = ("cut_1", "cut_2") if frozen == "bottom and trunk" else (None, "cut_1")
    payload = "activation_uplink_bytes" if always == "cut_1" else "activation_downlink_bytes"
    assert totals[always][payload] == 3 * 24 * row_bytes
    if kept_below is not None:
        # Rows pass the parts below the cache only once.
        assert totals[kept_below]["activation_uplink_bytes"] == 24 * row_bytes


def test_a_later_run_finds_what_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = resolve_model("embedded:qwen2_tiny")
    monkeypatch.setenv("SPLITLEARN_CACHE", str(tmp_path))
    monkeypatch.setattr("tests.training.test_frozen_parts.resolve_model", lambda _: name)
    first, num_first = run(tmp_path, **FROZEN["bottom"], activation_cache={"keep": "disk"})
    second, num_second = run(tmp_path, **FROZEN["bottom"], activation_cache={"keep": "disk"})
    assert second == first
    # Of each set the first batch is computed, to know its shape, and once more, to know that chance has no part in it.
    assert (num_first, num_second) == (24 + 8 + 4 + 4, 4 + 4 + 4 + 4)


def test_weights_that_were_replaced_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if name, size and time of their file are those of before."""
    copied = shutil.copytree(resolve_model("embedded:qwen2_tiny"), tmp_path / "model")
    monkeypatch.setenv("SPLITLEARN_CACHE", str(tmp_path))
    monkeypatch.setattr("tests.training.test_frozen_parts.resolve_model", lambda _: str(copied))
    settings = {**FROZEN["bottom"], "activation_cache": {"keep": "disk"}}
    run(tmp_path, **settings)
    shard = next(path for path in copied.glob("*.safetensors") if "model.layers.0.mlp.up_proj.weight" in load_file(path))
    before = shard.stat()
    tensors = load_file(shard)
    tensors["model.layers.0.mlp.up_proj.weight"] += 0.1
    save_file(tensors, shard, {"format": "pt"})
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert shard.stat().st_size == before.st_size
    expected, _ = run(tmp_path, **FROZEN["bottom"])
    assert run(tmp_path, **settings)[0] == pytest.approx(expected, abs=1e-6)


def test_nothing_below_the_lowest_trained_tensor_is_kept_for_backward(tiny_checkpoint: Callable[..., Path]) -> None:
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4, peft={**LORA, "parts": {"bottom": False, "trunk": False}})
    module.load_parts()
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    ids = torch.randint(3, 50, (2, 5))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        handover = module.composed.run(ids, 0, 2)
    assert isinstance(handover, Handover)
    assert not handover.parcel.hidden_BTD.requires_grad
    assert not kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "activation_cache.keep is memory, but bottom is trained"),
        ({"peft": LORA}, "activation_cache.keep is memory, but bottom is trained"),
    ],
)
def test_a_trained_bottom_has_nothing_to_keep(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **settings, activation_cache={"keep": "memory"})


class TwoRows:
    """Data of two rows, of one content."""

    def num_rows(self, name: str) -> int:
        return 2

    def digest(self, name: str) -> str:
        return name


@pytest.mark.parametrize("difference", ["none", "autocast", "quantization", "attention"])
def test_what_was_computed_in_another_way_is_not_taken(
    difference: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITLEARN_CACHE", str(tmp_path))
    checkpoint = tiny_checkpoint("llama", attention_dropout=0.0)
    module = SplitCausalLM(str(checkpoint), 2, 4, **FROZEN["bottom"], activation_cache={"keep": "disk"})
    module.load_parts()
    ids = token_ids(2)

    def share_run(quantization: Any = None) -> float:
        parts = FrozenParts(module.settings.cache, module.trained, module.composed, quantization)
        # The first row is computed in any case, to know its shape.
        for row in (0, 1):
            batch = {"input_ids": ids[row : row + 1], "row": torch.tensor([row])}
            parts.run(batch, "train", TwoRows(), {}, CallKind.TRAIN)
        return parts.share_run

    assert share_run() == 1.0
    if difference == "attention":
        module.composed.bottom.blueprint.config._attn_implementation = "eager"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=difference == "autocast"):
        again = share_run({"bits": 8} if difference == "quantization" else None)
    assert again == (0.0 if difference == "none" else 1.0)


def test_router_losses_of_frozen_parts_are_not_kept(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = tiny_checkpoint("mixtral", output_router_logits=True)
    frozen = {"parts": {"bottom": {"train": False}}}
    module = SplitCausalLM(str(checkpoint), 2, 4, optimizer=frozen, activation_cache={"keep": "memory"})
    with pytest.raises(ValueError, match="a router loss needs what the routers of frozen parts return"):
        module.load_parts()


def test_dropout_in_frozen_parts_is_refused(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    module = SplitCausalLM(
        str(tiny_checkpoint("gpt2", attn_pdrop=0.5, resid_pdrop=0.5)),
        2,
        4,
        **FROZEN["bottom"],
        activation_cache={"keep": "memory"},
    )
    module.load_parts()
    parts = FrozenParts(module.settings.cache, module.trained, module.composed)
    batch = {"input_ids": torch.randint(3, 50, (2, 5)), "row": torch.arange(2)}
    with pytest.raises(ValueError, match="drop activations at random"):
        parts.run(batch, "train", TwoRows(), {}, CallKind.TRAIN)
    with pytest.raises(ValueError, match="only blocks of one length"):
        parts.run(batch, "train", None, {}, CallKind.TRAIN)
