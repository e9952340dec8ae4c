"""An exported run is an ordinary model: transformers reads it, and it is the model that was trained."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from splitlearn.app import compose, export, train
from splitlearn.checkpoint import CheckpointError
from splitlearn.checkpoint.shard import open_shard
from splitlearn.checkpoint.source import CheckpointSource
from splitlearn.embedded import resolve_model
from splitlearn.export import folder as export_folder
from splitlearn.files import WriteError

SHORT = ["trainer.max_steps=2", "data.max_train_blocks=16", "data.max_val_blocks=8", "trainer.enable_progress_bar=false"]
SHORT += ["verbose=false", "optimizer.learning_rate=1e-2", "split.point_1=2", "split.point_2=6"]
IDS_BT = torch.arange(5, 69).view(2, 32)


def export_of(*overrides: str, folder: Path, **settings: Any) -> tuple[Any, Path]:
    result = train(compose(*SHORT, *overrides), folder=folder / "run")
    cfg = compose(f"run={folder / 'run'}", f"out={folder / 'out'}", config_name="export")
    for name, value in settings.items():
        cfg[name] = value
    return result, export(cfg)


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    source = CheckpointSource(folder)
    shards = source.open_shards(set(source.weight_map.values()))
    return {name: shards[file].read(name) for name, file in source.weight_map.items()}


CHOICES = {
    "full": [],
    "frozen trunk": ["optimizer.parts.trunk.train=false"],
    "adapters": ["peft=lora"],
    "adapters and a full trunk": ["peft=lora", "peft.parts.trunk=false", "optimizer.parts.trunk.train=full"],
    "adapters and norms": ["peft=lora", "+peft.settings.modules_to_save=[norm]"],
    "frozen beside adapters": ["peft=lora", "optimizer.parts.trunk.train=false", "+peft.settings.init_lora_weights=false"],
    "adapters in the bottom": ["peft=lora", "peft.settings.target_modules=[layers.0.mlp.up_proj, layers.1.mlp.up_proj]"],
    "norms": [f"optimizer.parts.{name}.train=norms" for name in ("bottom", "trunk", "top")],
    "bfloat16": ["model.dtype=bfloat16", "peft=lora"],
    "full, bf16-true": ["trainer.precision=bf16-true"],
}


def load_with_info(folder: Path) -> tuple[Any, dict[str, Any]]:
    # With `output_loading_info` it returns a pair, which its types do not say.
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    return model, info


@pytest.mark.filterwarnings("ignore:weights are trained in bfloat16")
@pytest.mark.parametrize("choice", CHOICES)
def test_transformers_reads_the_model_that_was_trained(choice: str, tmp_path: Path) -> None:
    result, out = export_of(*CHOICES[choice], folder=tmp_path)
    model, info = load_with_info(out)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    composed = result.module.composed.eval()
    with torch.no_grad():
        expected, logits = composed(IDS_BT).logits, model(IDS_BT).logits
    assert logits.dtype == expected.dtype
    # Adapters are added to the weights in another order than to the outputs.
    tolerance = 0.1 if choice == "bfloat16" else 1e-4 if "adapters" in choice else 0.0
    assert (logits - expected).abs().max() <= tolerance
    base = AutoModelForCausalLM.from_pretrained(resolve_model("embedded:qwen2_tiny"), dtype=expected.dtype)
    with torch.no_grad():
        assert (base(IDS_BT).logits - logits).abs().max() > 2 * tolerance, "training did something"


def bfloat16_checkpoint(tiny_checkpoint: Callable[..., Path], folder: Path) -> list[str]:
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama", vocab_size=2048), dtype=torch.bfloat16)
    base.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny")).save_pretrained(folder)
    return ["model=pretrained", f"model.name_or_path={folder}", "split.point_2=4"]


def test_weights_of_a_bfloat16_checkpoint_are_exported_as_they_were_trained(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    chosen = bfloat16_checkpoint(tiny_checkpoint, tmp_path / "base")
    result, out = export_of(*chosen, folder=tmp_path)
    model = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        assert torch.equal(model(IDS_BT).logits, result.module.composed.eval()(IDS_BT).logits)
    assert model.dtype == torch.float32
    narrow = export(compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'narrow'}", "dtype=bfloat16", config_name="export"))
    exported = read_all(narrow)
    assert {each.dtype for each in exported.values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(narrow).dtype == torch.bfloat16
    assert all(torch.equal(each, read_all(out)[name].bfloat16()) for name, each in exported.items())


def test_frozen_parts_of_a_bfloat16_checkpoint_stay_as_they_are(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    chosen = bfloat16_checkpoint(tiny_checkpoint, tmp_path / "base")
    result, out = export_of(*chosen, "optimizer.parts.trunk.train=false", folder=tmp_path)
    assert [part.dtype for part in result.module.parts] == [torch.float32, torch.bfloat16, torch.float32]
    exported, base = read_all(out), read_all(tmp_path / "base")
    assert all(torch.equal(each, base[name]) for name, each in exported.items() if each.dtype == torch.bfloat16)
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float32


def test_a_head_that_was_trained_as_a_whole_beside_adapters(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_checkpoint("llama", vocab_size=2048, tie_word_embeddings=False)
    AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny")).save_pretrained(base)
    chosen = ["model=pretrained", f"model.name_or_path={base}", "split.point_2=4"]
    result, out = export_of(*chosen, "peft=lora", "+peft.settings.modules_to_save=[lm_head]", folder=tmp_path)
    model, info = load_with_info(out)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        assert torch.allclose(model(IDS_BT).logits, result.module.composed.eval()(IDS_BT).logits, atol=1e-4)
    assert not torch.equal(read_all(out)["lm_head.weight"], read_all(base)["lm_head.weight"])


@pytest.mark.parametrize("choice", ["adapters", "adapters and a full trunk"])
def test_adapters_are_kept_beside_the_weights(choice: str, tmp_path: Path) -> None:
    result, out = export_of(*CHOICES[choice], folder=tmp_path, adapters="keep")
    composed = result.module.composed.eval()
    model = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        expected = composed(IDS_BT).logits
        assert (model(IDS_BT).logits - expected).abs().max() <= 1e-5, "transformers finds the adapter by itself"
        base = AutoModelForCausalLM.from_pretrained(resolve_model("embedded:qwen2_tiny"))
        stands_alone = choice == "adapters"
        if stands_alone:
            assert (PeftModel.from_pretrained(base, out)(IDS_BT).logits - expected).abs().max() <= 1e-5
    settings = json.loads((out / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"] is not None) == stands_alone
    base_tensors, exported = read_all(Path(resolve_model("embedded:qwen2_tiny"))), read_all(out)
    same = {name for name in base_tensors if torch.equal(base_tensors[name], exported[name])}
    trunk = {name for name in base_tensors if any(f"layers.{index}." in name for index in range(2, 6))}
    assert same == (set(base_tensors) if stands_alone else set(base_tensors) - trunk)
    assert "| as in the base model, with adapters beside them |" in (out / "README.md").read_text()


def test_what_was_not_trained_is_the_base_checkpoints_to_the_bit(tmp_path: Path) -> None:
    _, out = export_of("optimizer.parts.trunk.train=false", folder=tmp_path)
    base, exported = read_all(Path(resolve_model("embedded:qwen2_tiny"))), read_all(out)
    assert exported.keys() == base.keys(), "a tied head is stored once"
    same = {name for name in base if torch.equal(base[name], exported[name])}
    assert same == {name for name in base if any(f"layers.{index}." in name for index in range(2, 6))}


def test_the_folder_is_complete(tmp_path: Path) -> None:
    _, out = export_of("peft=lora", folder=tmp_path, max_shard_size="1MB")
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "README.md", "model.safetensors.index.json"} <= names
    shards = sorted(name for name in names if name.endswith(".safetensors"))
    assert len(shards) > 3 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in read_all(out).values())
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in out.glob("*.safetensors")} == {0o666 & ~mask}
    card = (out / "README.md").read_text()
    for expected in (
        "cut at layers 2 and 6",
        "| trunk | layers 2-5 | adapters, merged |",
        "| perplexity |",
        "embedded:python_docs",
    ):
        assert expected in card
    assert AutoTokenizer.from_pretrained(out)("a cut")["input_ids"]
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


@pytest.mark.parametrize("choice", ["full", "frozen trunk", "adapters"])
def test_experts_that_a_checkpoint_stores_one_by_one(choice: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_checkpoint("mixtral", vocab_size=2048)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny"))
    tokenizer.save_pretrained(base)
    chosen = ["model=pretrained", f"model.name_or_path={base}", "split.point_2=4", "optimizer.learning_rate=1e-3"]
    result, out = export_of(*chosen, *CHOICES[choice], folder=tmp_path)
    model, info = load_with_info(out)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        difference = (model(IDS_BT).logits - result.module.composed.eval()(IDS_BT).logits).abs().max()
    assert difference <= (1e-4 if choice == "adapters" else 0.0)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    def fails(kind: type[Exception], message: str, run: Path, out: Path = tmp_path / "out") -> None:
        with pytest.raises(kind, match=message):
            export(compose(f"run={run}", f"out={out}", config_name="export"))

    fails(FileNotFoundError, r"has no config.yaml; name the folder of a run", tmp_path / "absent")
    run = tmp_path / "run"
    train(compose(*SHORT, "save_parts=false"), folder=run)
    fails(FileNotFoundError, r"has no parts/bottom.pt; .* train with save_parts=true", run)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*")), "nothing half-written is left"
    fails(CheckpointError, "exists already; name a new folder", run, out=run)
    for how, message in {
        "melt": "adapters is 'melt'; use one of merge, keep",
        "keep": "has trained none; leave it out",
    }.items():
        with pytest.raises(ValueError, match=message):
            export(compose(f"run={run}", f"out={tmp_path / 'out'}", f"adapters={how}", config_name="export"))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    fails(FileNotFoundError, "is interrupted, not completed; take what it had reached with ckpt=last or ckpt=best", run)


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(compose(*SHORT), folder=tmp_path / "run")
    usage = shutil.disk_usage(tmp_path)
    written: list[Path] = []
    monkeypatch.setattr(export_folder, "write_tensor_file", lambda tensors, path, *rest: written.append(path))
    base = Path(resolve_model("embedded:qwen2_tiny"))
    stored_bytes = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=stored_bytes * 9 // 10))
    with pytest.raises(WriteError, match=r"out cannot be written .*; .* MiB are needed and .* MiB are free"):
        export(compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", config_name="export"))
    assert not written and sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_configuration_is_read_and_nothing_in_it_is_called(tmp_path: Path) -> None:
    _, _ = export_of(folder=tmp_path)
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("splitlearn.data.TextDataModule", "os.abort"))
    assert export(compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'again'}", config_name="export")).is_dir()
    assert open_shard(next((tmp_path / "again").glob("*.safetensors"))).names
