"""A run can be used at any of its checkpoints: interrupted or not, the best or the last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from splitlearn.app import compose, export, generate, train
from splitlearn.app.checkpoints import read_checkpoint
from splitlearn.app.opening_runs import open_run
from splitlearn.checkpoint import CheckpointError
from splitlearn.embedded import resolve_model
from splitlearn.export import RunRecord, restore
from splitlearn.runs import RunSummary
from splitlearn.training import SplitCausalLM
from tests.export.test_export import CHOICES, IDS_BT, SHORT


def restored_logits(run: Path, ckpt: str | None) -> torch.Tensor:
    record, opened = open_run(str(run), ckpt)
    with torch.no_grad():
        logits: torch.Tensor = restore(opened, record)(IDS_BT).logits
    return logits


def change_weights(base: Path) -> None:
    for shard in base.glob("*.safetensors"):
        save_file({name: each + 0.01 for name, each in load_file(shard).items()}, shard, {"format": "pt"})


@pytest.mark.filterwarnings("ignore:weights are trained in bfloat16")
@pytest.mark.parametrize("choice", [*CHOICES, "quantized"])
def test_a_checkpoint_holds_what_the_run_ended_with(choice: str, tmp_path: Path) -> None:
    chosen = ["peft=lora", "model.quantization=int8"] if choice == "quantized" else CHOICES[choice]
    result = train(compose(*SHORT, *chosen), folder=tmp_path / "run")
    ended = restored_logits(tmp_path / "run", None)
    if choice != "quantized":
        with torch.no_grad():
            assert torch.equal(ended, result.module.composed.eval()(IDS_BT).logits)
    # Killed outright: no summary, no parts.
    (tmp_path / "run" / "summary.json").unlink()
    for name in ("parts", "adapters"):
        shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
    for ckpt in ("last", "best", str(tmp_path / "run" / "checkpoints" / "step_000002.ckpt")):
        assert torch.equal(restored_logits(tmp_path / "run", ckpt), ended)


def test_an_unfinished_run_says_what_can_be_taken_of_it(tmp_path: Path) -> None:
    train(compose(*SHORT, "save_parts=false"), folder=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    cfg = compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", config_name="export")
    with pytest.raises(FileNotFoundError, match=r"is interrupted, not completed; take .* ckpt=last or ckpt=best"):
        export(cfg)
    with pytest.raises(FileNotFoundError, match=r"ckpt is absent.ckpt, which does not exist"):
        export(compose(f"run={tmp_path / 'run'}", "out=out", "ckpt=absent.ckpt", config_name="export"))
    cfg.ckpt = "best"
    card = (export(cfg) / "README.md").read_text()
    assert f"{summary['metrics']['val_loss_after']:.4f}" in card and "2 steps, 2,048 tokens" in card
    asked = compose(f"run={tmp_path / 'run'}", "prompt=a", "max_new_tokens=2", "ckpt=last", config_name="generate")
    assert len(generate(asked)) == 1


def test_records_of_older_releases_and_damaged_ones(tmp_path: Path) -> None:
    train(compose(*SHORT, "save_parts=false"), folder=tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    summary = json.loads(path.read_text())
    older = {name: value for name, value in summary.items() if name not in ("version", "placement", "base")}
    path.write_text(json.dumps(older))
    record = RunRecord.read(tmp_path / "run")
    assert record.split_points == (2, 6) and record.base == {} and record.summary.version is None
    path.write_text(json.dumps({name: value for name, value in older.items() if name != "trained"}))
    with pytest.raises(CheckpointError, match=r"summary.json does not say trained, so it is of an older release; .* ckpt=last"):
        export(compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", config_name="export"))
    path.write_text(json.dumps(older)[:-9])
    with pytest.raises(ValueError, match=r"summary.json is not JSON .*; delete it, and use the run by its checkpoints"):
        export(compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", config_name="export"))
    path.unlink()
    assert (export(compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", "ckpt=last", config_name="export"))).is_dir()


def test_parts_of_an_earlier_run_in_the_folder_are_not_this_runs(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "top.pt").touch()
    assert RunRecord(tmp_path, {}, RunSummary(saved_parts=None)).saved_part("top") is None
    saved = RunRecord(tmp_path, {}, RunSummary(saved_parts=str(tmp_path / "parts")))
    assert saved.saved_part("top") == tmp_path / "parts" / "top.pt" and saved.saved_part("bottom") is None


def test_adapters_of_a_checkpoint_are_kept_beside_the_weights(tmp_path: Path) -> None:
    result = train(compose(*SHORT, "peft=lora"), folder=tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "adapters")
    settings = [f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", "adapters=keep", "ckpt=last"]
    out = export(compose(*settings, config_name="export"))
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(out)(IDS_BT).logits
        assert torch.equal(logits, result.module.composed.eval()(IDS_BT).logits)
    assert not list(out.glob(".*"))


# Adapters alone change the loss by little, whatever their rate: the final norm bounds what the head gets.
BESIDE_A_FULL_HEAD = ["model.untie=true", "peft=lora", "peft.parts.top=false", "optimizer.parts.top.train=full"]


@pytest.mark.parametrize("choice", [CHOICES["full"], BESIDE_A_FULL_HEAD], ids=["full", "adapters beside a full head"])
def test_the_best_is_not_the_last(choice: list[str], tmp_path: Path) -> None:
    """A learning rate that rises too high: an earlier step is the best, and is what load_best_model_at_end saves."""
    settings = ["eval_steps=1", "trainer.max_steps=4", "optimizer.learning_rate=3", "optimizer.warmup_fraction=1"]
    settings += ["load_best_model_at_end=true"]
    result = train(compose(*SHORT, *settings, *choice), folder=tmp_path / "run")
    best = json.loads((tmp_path / "run" / "summary.json").read_text())["best"]
    assert best["step"] < 4 and Path(best["file"]).name == f"step_{best['step']:06d}.ckpt"
    assert result.metrics["val_loss_after"] == best["val_loss"]
    ended = restored_logits(tmp_path / "run", None)
    assert torch.equal(ended, restored_logits(tmp_path / "run", "best"))
    assert not torch.equal(ended, restored_logits(tmp_path / "run", "last"))
    with torch.no_grad():
        assert torch.equal(ended, result.module.composed.eval()(IDS_BT).logits)
    measured = result.trainer.validate(result.module, result.datamodule, verbose=False)[0]
    assert measured["val_loss"] == best["val_loss"]


@pytest.mark.parametrize("choice", ["adapters", "frozen trunk", "norms"])
def test_another_base_is_told(choice: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny_checkpoint("llama", vocab_size=2048), tmp_path / "base")
    AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny")).save_pretrained(base)
    chosen = ["model=pretrained", f"model.name_or_path={base}", "split.point_2=4", *CHOICES[choice]]
    train(compose(*SHORT, *chosen), folder=tmp_path / "run")
    restored_logits(tmp_path / "run", None)
    change_weights(base)
    for ckpt in (None, "last"):
        with pytest.raises(CheckpointError, match=r"is another than the one that the run .* other values"):
            open_run(str(tmp_path / "run"), ckpt)


def test_what_was_trained_in_full_needs_no_weights_of_the_base(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny_checkpoint("llama", vocab_size=2048), tmp_path / "base")
    AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny")).save_pretrained(base)
    train(compose(*SHORT, "model=pretrained", f"model.name_or_path={base}", "split.point_2=4"), folder=tmp_path / "run")
    ended = restored_logits(tmp_path / "run", None)
    change_weights(base)
    assert torch.equal(restored_logits(tmp_path / "run", None), ended)
    AutoTokenizer.from_pretrained(base, additional_special_tokens=["<new>"]).save_pretrained(base)
    with pytest.raises(CheckpointError, match="the tokenizer is another"):
        open_run(str(tmp_path / "run"))
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["base"]["base_weights"] == {}


def test_a_module_is_made_from_a_checkpoint_alone(tmp_path: Path) -> None:
    result = train(compose(*SHORT, "peft=lora"), folder=tmp_path)
    module = SplitCausalLM.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    with torch.no_grad():
        assert torch.equal(module.composed.eval()(IDS_BT).logits, result.module.composed.eval()(IDS_BT).logits)
