"""A run's model is measured as the run itself measured it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from splitlearn.app import compose, evaluate, train
from splitlearn.checkpoint import CheckpointError
from splitlearn.runs import read_run_config
from tests.app.test_checkpoints import files_of
from tests.export.test_export import CHOICES, SHORT


@pytest.mark.filterwarnings("ignore:weights are trained in bfloat16")
@pytest.mark.parametrize("choice", ["full", "adapters and a full trunk", "full, bf16-true", "quantized"])
def test_figures_are_the_runs_own(choice: str, tmp_path: Path) -> None:
    chosen = ["peft=lora", "model.quantization=int8"] if choice == "quantized" else CHOICES[choice]
    result = train(compose(*SHORT, *chosen, "eval_steps=1", "save_top_k=-1"), folder=tmp_path)
    before = files_of(tmp_path)
    best = json.loads((tmp_path / "summary.json").read_text())["best"]
    wanted = {
        "": result.metrics["val_loss_after"],
        "ckpt=last": result.metrics["val_loss_after"],
        "ckpt=best": best["val_loss"],
    }
    wanted["base=true"] = result.metrics["val_loss_before"]
    for setting, loss in wanted.items():
        figures = evaluate(compose(f"run={tmp_path}", *([setting] if setting else []), config_name="evaluate"))
        assert figures["loss"] == loss, setting
        assert json.loads(json.dumps(figures)) == figures, "plain values, and nothing else"
        assert (figures["rows"], figures["tokens"], figures["supervised_tokens"]) == (8, 8 * 128, 8 * 127)
    assert files_of(tmp_path) == before, "nothing is written"


def test_given_text_is_measured_on_as_a_whole(tmp_path: Path) -> None:
    train(compose(*SHORT, "peft=lora"), folder=tmp_path / "run")
    (tmp_path / "text.txt").write_text("\n\n".join(f"Paragraph {number} is about splitting models." for number in range(99)))
    settings = [f"run={tmp_path / 'run'}", f"data.source={tmp_path / 'text.txt'}", "data.block_size=32"]
    figures = evaluate(compose(*settings, config_name="evaluate"))
    assert figures["tokens"] == 32 * figures["rows"] > 500 and figures["loss"] > 0
    fewer = evaluate(compose(*settings, "data.max_val_blocks=3", config_name="evaluate"))
    assert fewer["rows"] == 3


def test_a_configuration_cannot_name_code(tmp_path: Path) -> None:
    train(compose(*SHORT, "peft=lora"), folder=tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("splitlearn.data.TextDataModule", "os.system"))
    with pytest.raises(ValueError, match=r"os.system is none of splitlearn's own"):
        evaluate(compose(f"run={tmp_path}", config_name="evaluate"))
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is damaged"):
        evaluate(compose(f"run={tmp_path}", "ckpt=last", config_name="evaluate"))


def test_texts_of_a_run_are_not_interpolated(tmp_path: Path) -> None:
    """A run that took ``${...}`` literally is read so, too."""
    cfg = compose(*SHORT)
    cfg.tags = ["costs \\${price}", "no \\${braces"]
    result = train(cfg, folder=tmp_path)
    assert read_run_config(tmp_path)["tags"] == ["costs ${price}", "no ${braces"]
    assert evaluate(compose(f"run={tmp_path}", config_name="evaluate"))["loss"] == result.metrics["val_loss_after"]
    with pytest.raises(CheckpointError, match="holds a run already"):
        train(cfg, folder=tmp_path)
