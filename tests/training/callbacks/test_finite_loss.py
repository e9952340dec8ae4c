import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from splitlearn.app import compose, train
from splitlearn.training.callbacks import DivergedError

SHORT = ["trainer.max_steps=6", "data.max_train_blocks=64", "data.max_val_blocks=4", "save_parts=false", "verbose=false"]


def test_a_run_whose_loss_is_no_longer_a_number_ends_before_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[torch.Tensor] = []
    step = LightningModule.optimizer_step

    def spoil(self: LightningModule, *args: Any, **kwargs: Any) -> None:
        step(self, *args, **kwargs)
        weights.append(next(self.parameters()).detach().clone())
        if len(weights) == 3:
            torch.nn.init.constant_(next(self.parameters()), torch.inf)

    monkeypatch.setattr(LightningModule, "optimizer_step", spoil)
    with pytest.raises(DivergedError, match=r"the training loss is (nan|inf) at step 3 \(learning rate .*choose a smaller"):
        train(compose(*SHORT, "tags=[trial]"), folder=tmp_path)
    assert len(weights) == 3
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert "the training loss is" in summary["reason"]
    assert summary["tags"] == ["trial"]
