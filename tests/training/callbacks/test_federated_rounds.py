"""A client's run in rounds: what it offers, what it takes, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from splitlearn.model import trained_parameters
from splitlearn.rounds import Ends, RoundFolder
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import FederatedRounds
from splitlearn.training.callbacks.federated_rounds import check_mean


class Answers(RoundFolder):
    """Stands for a folder whose app answers with what was offered plus one."""

    offered: list[Ends]

    def offer(self, ends: Ends) -> None:
        # What is offered shares memory with the parts.
        copied = {name: tensor.copy() for name, tensor in ends.tensors.items()}
        self.offered = [*getattr(self, "offered", []), replace(ends, tensors=copied)]

    def take(self, number: int, seconds: float) -> dict[str, np.ndarray[Any, Any]]:
        return {name: tensor + 1 for name, tensor in self.offered[-1].tensors.items()}


def make(folder: Path, every: int = 2) -> tuple[FederatedRounds, Answers]:
    rounds, answers = FederatedRounds(folder, every), Answers(folder)
    rounds._folder = answers
    return rounds, answers


def _own(module: SplitCausalLM) -> dict[str, np.ndarray[Any, Any]]:
    parameters = trained_parameters([module.parts[0], module.parts[2]])
    return {name: parameter.detach().numpy() for name, parameter in parameters.items()}


def trainer_at(step: int) -> Any:
    blocks = {"train": [0] * 9}
    return SimpleNamespace(global_step=step, estimated_stepping_batches=7, datamodule=SimpleNamespace(blocks=blocks))


def test_adapters_alone_are_offered_and_become_the_mean(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4, peft={"method": "lora"}, dtype="bfloat16")
    module.load_parts()
    rounds, answers = make(tmp_path)
    trunk = [parameter.detach().clone() for parameter in module.parts[1].parameters()]
    rounds.on_train_start(trainer_at(0), module)
    for step in (1, 1, 2, 2, 3):
        # With accumulation a step is of several batches.
        rounds.on_train_batch_end(trainer_at(step), module, None, None, 0)
    assert [(ends.number, ends.num_examples, ends.rounds_left) for ends in answers.offered] == [(0, 9, 3), (1, 9, 2)]
    assert "embedding" not in capsys.readouterr().out
    tensors = answers.offered[-1].tensors
    assert tensors and all("lora_" in name and tensor.dtype == np.float32 for name, tensor in tensors.items())
    assert not any(name.split(".")[2] in ("2", "3") for name in tensors if ".layers." in name)
    trained = [parameter for part in (module.parts[0], module.parts[2]) for parameter in part.parameters()]
    own = torch.cat([parameter.detach().flatten().float() for parameter in trained if parameter.requires_grad])
    assert own.sort().values.equal(torch.cat([torch.from_numpy(t.ravel() + 1) for t in tensors.values()]).sort().values)
    assert all(one.equal(other) for one, other in zip(trunk, module.parts[1].parameters(), strict=True))
    assert answers.has_run()
    rounds.on_train_end(trainer_at(3), module)
    assert not answers.has_run()


def test_a_run_that_goes_on_in_the_middle_of_a_round_ends_it_first(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    module.load_parts()
    rounds, answers = make(tmp_path)
    rounds.on_train_start(trainer_at(3), module)
    assert "how it has changed tells whoever averages which tokens" in capsys.readouterr().out
    before = answers.offered[0].tensors
    assert all(np.array_equal(tensor, before[name]) for name, tensor in _own(module).items())
    rounds.on_train_batch_end(trainer_at(4), module, None, None, 0)
    assert [(ends.number, ends.rounds_left) for ends in answers.offered] == [(1, 2), (2, 1)]
    assert all(np.array_equal(tensor, before[name] + 1) for name, tensor in _own(module).items())
    rounds.on_exception(trainer_at(4), module, KeyboardInterrupt())
    assert not answers.has_run()


def test_a_stream_is_not_asked_for_its_length(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    module.load_parts()
    rounds, answers = make(tmp_path)
    # Lightning would begin the stream to answer, so it has no such attribute here.
    trainer = SimpleNamespace(global_step=2, max_steps=7, datamodule=SimpleNamespace(streaming=True, blocks={}))
    rounds.on_train_start(cast(Trainer, trainer), module)
    rounds.on_train_end(cast(Trainer, trainer), module)
    assert [(ends.number, ends.num_examples, ends.rounds_left) for ends in answers.offered] == [(1, 1, 2)]


def test_what_cannot_be_averaged_is_refused(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    frozen = {"parts": {"bottom": {"train": False}, "top": {"train": False}}}
    module = SplitCausalLM(str(tiny_checkpoint("llama", tie_word_embeddings=False)), 2, 4, optimizer=frozen)
    module.load_parts()
    with pytest.raises(ValueError, match="nothing of this client's bottom and top is trained"):
        make(tmp_path)[0].on_train_start(trainer_at(0), module)
    with pytest.raises(ValueError, match="average_every is 0; use 1 or more"):
        FederatedRounds(tmp_path, 0)
    with pytest.raises(TypeError, match="rounds are for a SplitCausalLM, not for LightningModule"):
        make(tmp_path)[0].on_train_start(cast(Trainer, trainer_at(0)), LightningModule())


def test_a_mean_that_does_not_fit_is_refused() -> None:
    own = {"a": np.zeros(2), "b": np.zeros(3)}
    check_mean(own, {name: tensor + 1 for name, tensor in own.items()}, 1)
    with pytest.raises(
        ValueError, match=r"of round 1 the tensor b is not there, and here of the shape \(3,\); all clients must"
    ):
        check_mean(own, {"a": np.zeros(2)}, 1)
    with pytest.raises(ValueError, match=r"the tensor a is of the shape \(4,\), and here of the shape \(2,\)"):
        check_mean(own, {"a": np.zeros(4), "b": np.zeros(3)}, 1)
    with pytest.raises(ValueError, match="in the mean of round 1 the tensor b has numbers that are not finite"):
        check_mean(own, {"a": np.zeros(2), "b": np.array([0.0, np.nan, 0.0])}, 1)
