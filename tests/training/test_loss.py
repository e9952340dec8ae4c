"""Losses of batches whose logits are not all in memory at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.model import chunked_loss
from splitlearn.training import SplitCausalLM
from tests.architectures.catalogue import tiny_model
from tests.training.test_module import batches, fit


def run(checkpoint: Path, folder: Path, **settings: Any) -> float:
    torch.manual_seed(0)
    module = SplitCausalLM(str(checkpoint), 2, 4, **settings)
    # Steps at which the loss falls steeply, so that a wrong gradient would show in the losses after it.
    made = fit(module, batches([3, 2, 3, 3] * 5), folder, accumulate_grad_batches=2)
    return float(made.callback_metrics["train_loss_epoch"])


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_training_takes_the_same_steps(
    model_type: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = chunked_loss

    def counted(*args: Any) -> torch.Tensor:
        calls.append(args[-1])
        return original(*args)

    monkeypatch.setattr("splitlearn.training.top_loss.chunked_loss", counted)
    checkpoint = tiny_checkpoint(model_type)
    expected = run(checkpoint, tmp_path, max_logits_mib=None)
    assert not calls
    found = run(checkpoint, tmp_path, max_logits_mib=0.001)
    assert calls == [64] * 20
    assert found == pytest.approx(expected, rel=1e-5)


def test_rows_side_by_side_that_see_each_other_are_refused(tmp_path: Path) -> None:
    tiny_model("falcon_mamba").save_pretrained(tmp_path)
    module = SplitCausalLM(str(tmp_path), 2, 4)
    module.load_parts()
    batch = batches([1])[0]
    side_by_side = {**batch, "position_ids": torch.tensor([[*range(8), *range(3)]])}
    with pytest.raises(ValueError, match=r"lets rows that lie side by side in a block see each other.*set packing=none"):
        module._losses_of(side_by_side, 10, "val")
