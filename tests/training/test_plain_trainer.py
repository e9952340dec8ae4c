"""The module under a Trainer without this project's strategy and callbacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from splitlearn.training import SplitCausalLM
from tests.tiny_models import token_ids

IDS_NT = token_ids(8, 12)


def loader() -> DataLoader[Any]:
    return DataLoader([{"input_ids": ids_T, "labels": ids_T} for ids_T in IDS_NT], batch_size=4)  # type: ignore[arg-type]


def plain_trainer(folder: Path, max_epochs: int) -> Trainer:
    settings: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", max_epochs=max_epochs, default_root_dir=folder, **settings)


def make(folder: Path, **settings: Any) -> SplitCausalLM:
    torch.manual_seed(0)
    # A rate that does not depend on how long the run is meant to be.
    optimizer = {"learning_rate": 1e-2, "schedule": "constant_with_warmup", "warmup_fraction": 0.0}
    return SplitCausalLM(str(folder), 2, 4, optimizer=optimizer, **settings)


def test_it_validates_as_the_unsplit_model(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama")
    figures = plain_trainer(tmp_path, 1).validate(make(folder), loader(), verbose=False)[0]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(IDS_NT, labels=IDS_NT).loss
    assert figures["val_loss"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("settings", [{}, {"peft": {"method": "lora"}}], ids=["weights", "adapters"])
def test_it_trains_resumes_and_is_loaded_again(
    settings: dict[str, Any], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("llama", attention_dropout=0.0)
    whole = make(folder, **settings)
    plain_trainer(tmp_path, 2).fit(whole, loader())
    trainer = plain_trainer(tmp_path, 1)
    trainer.fit(make(folder, **settings), loader())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    resumed = make(folder, **settings)
    trainer = plain_trainer(tmp_path, 2)
    trainer.fit(resumed, loader(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    expected = dict(whole.named_parameters())
    assert expected and all(torch.equal(parameter, expected[name]) for name, parameter in resumed.named_parameters())
    loaded = SplitCausalLM.load_from_checkpoint(tmp_path / "two.ckpt", weights_only=True)
    said = [module.generate(IDS_NT[:1, :4], max_new_tokens=4, do_sample=False, pad_token_id=0) for module in (whole, loaded)]
    assert torch.equal(*said)
