from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator

from splitlearn.model import SplitModel
from splitlearn.training import SplitCausalLM, SplitPrecision, SplitStrategy
from splitlearn.training.strategy import root_device_arguments
from tests.training.test_module import CPU, batches, loader


def test_nobody_moves_the_parts(tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After loading has placed the parts, neither start, end nor resume of a fit may call .to() or .cpu() on them."""
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    module.load_parts()

    def refuse(self: torch.nn.Module, *args: object, **kwargs: object) -> None:
        pytest.fail(f"{type(self).__name__} was moved")

    for kind in (SplitModel, SplitCausalLM):
        for move in ("to", "cpu", "_apply"):
            monkeypatch.setattr(kind, move, refuse)
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    for checkpoint in (None, tmp_path / "last.ckpt"):
        trainer = Trainer(accelerator="cpu", strategy=SplitStrategy(CPU), max_epochs=1 if checkpoint is None else 2, **quiet)
        trainer.fit(module, loader(batches([2, 2])), ckpt_path=checkpoint, weights_only=True)
        if checkpoint is None:
            trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert trainer.global_step == 4


def test_a_part_on_another_device_than_meant_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    """Here the trunk; training would move every batch to and fro, many times slower."""
    strategy = SplitStrategy({**CPU, "trunk": "cuda:0"}, accelerator=CPUAccelerator())
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    module.load_parts()
    strategy.connect(module)
    with pytest.raises(ValueError, match="the trunk is on cpu, but SplitStrategy was given cuda:0 for it; give the module"):
        strategy.setup(SimpleNamespace(state=SimpleNamespace(fn="fit")))


@pytest.mark.parametrize("moment", ["setup", "resume", "teardown"])
def test_nobody_moves_optimizer_state(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would move the state of all parts to the bottom's device, here the one that keeps no values."""
    strategy = SplitStrategy({"bottom": "meta", "trunk": "cpu", "top": "cpu"}, accelerator=CPUAccelerator())
    module = LightningModule()
    module.weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW(module.parameters())
    module.weight.sum().backward()
    optimizer.step()
    strategy.connect(module)
    strategy.optimizers = [optimizer]
    monkeypatch.setattr(strategy, "setup_optimizers", lambda trainer: None)
    if moment == "setup":
        strategy.setup(SimpleNamespace(state=SimpleNamespace(fn="fit")))
    elif moment == "resume":
        strategy.load_optimizer_state_dict({"optimizer_states": [optimizer.state_dict()]})
    else:
        strategy.teardown()
    assert {name: str(each.device) for name, each in optimizer.state[module.weight].items()} == {
        "step": "cpu",
        "exp_avg": "cpu",
        "exp_avg_sq": "cpu",
    }
    assert module.weight.device.type == "cpu"


def test_the_bottoms_device_is_the_trainers() -> None:
    assert root_device_arguments(CPU) == {"accelerator": "cpu", "devices": 1}
    on_gpus = {"bottom": "cuda:1", "trunk": "cuda:0", "top": "cuda:0"}
    assert root_device_arguments(on_gpus) == {"accelerator": "gpu", "devices": [1]}
    assert SplitStrategy(on_gpus).root_device == torch.device("cuda:1")


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_autocast_covers_every_kind_of_device() -> None:
    mixed = SplitPrecision("bf16-mixed", {"bottom": "cpu", "trunk": "cuda:0", "top": "cuda:0"})
    with mixed.forward_context():
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
    with SplitPrecision("32-true", CPU).forward_context():
        assert not torch.is_autocast_enabled("cpu")
