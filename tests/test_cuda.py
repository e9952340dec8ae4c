"""What a GPU could do otherwise: where tensors live, random numbers, memory and time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from transformers import AutoModelForCausalLM

from splitlearn.app import TrainResult, attack, compose, conf_folder, evaluate, generate, train, verify
from splitlearn.attacks import BACKWARD, AttackerView, Budget, LabelsByConjugateGradients, PublicModel, collect
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from splitlearn.silence import without_lightning_advice
from splitlearn.training import SplitCausalLM, SplitPrecision, SplitStrategy, root_device_arguments
from splitlearn.training.callbacks import ExactResume, StepPhases
from splitlearn.training.callbacks.exact_resume import read_generators
from tests.tiny_models import VOCAB_SIZE, token_ids
from tests.training.test_module import loader

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use")

Tiny = Callable[..., Path]
PARTS = ("bottom", "trunk", "top")
MAPS: dict[str, Any] = {
    "all": dict.fromkeys(PARTS, "cuda:0"),
    "trunk": {"bottom": "cpu", "trunk": "cuda:0", "top": "cpu"},
    "auto": {"bottom": "cpu", "trunk": "cuda:0", "top": "cuda:0"},
}
SETTINGS = {"all": "device_map=cuda:0", "trunk": 'device_map={trunk: "cuda:0"}', "auto": "device_map=auto"}
SHORT = ["trainer.max_steps=2", "data.max_train_blocks=32", "data.max_val_blocks=8", "trainer.enable_progress_bar=false"]
SHORT += ["verbose=false", "trainer.max_epochs=2", "data.block_size=32"]
ATTACK = ["auxiliary_pieces=40", "validation_pieces=4", "test_pieces=4", "prompts=1", "recording_seconds=2"]
ATTACK += ["budgets.transformer.seconds=1", "budgets.labels_cg.seconds=2", "budgets.labels.seconds=2"]
ATTACK += ["budgets.responses.seconds=2", "budgets.bag_of_tokens.seconds=2", "budgets.ridge.seconds=1"]
ATTACK += ["budgets.mlp.seconds=1", "budgets.prefix_search.seconds=1", "tokens=24"]
DATA = [{"input_ids": ids, "labels": ids} for ids in (token_ids(2, 9, seed) for seed in range(4))]


def run(folder: Path, *settings: str) -> TrainResult:
    return train(compose(*SHORT, *settings), folder=folder)


def unsplit(folder: Path, **settings: Any) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, **settings)
    return model.to("cuda").eval()


def parts_of(folder: Path, devices: dict[str, str], **settings: Any) -> ComposedCausalLM:
    return ComposedCausalLM(*ModelFactory.create_split_models(None, folder, 2, 4, device_map=devices, **settings))


class Fitted:
    """A short training with dropout on some devices."""

    def __init__(self, checkpoint: Path, folder: Path, devices: dict[str, str], precision: str, **settings: Any) -> None:
        torch.manual_seed(4)
        resume, stop = settings.pop("ckpt_path", None), settings.pop("max_steps", 8)
        self.module = SplitCausalLM(str(checkpoint), 2, 4, device_map=devices, **settings)
        self.phases = StepPhases(synchronize=True)
        with without_lightning_advice():
            self.trainer = self._make_trainer(folder, devices, precision, stop)
        self.trainer.fit(self.module, loader(DATA), ckpt_path=resume)
        torch.use_deterministic_algorithms(False)
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in self.module.named_parameters()}
        self.generators = str(read_generators()), str(self.module.generators.state())

    def _make_trainer(self, folder: Path, devices: dict[str, str], precision: str, max_steps: int) -> Trainer:
        return Trainer(
            strategy=SplitStrategy(devices, precision_plugin=SplitPrecision(precision, devices)),
            **root_device_arguments(devices),
            default_root_dir=folder,
            callbacks=[ExactResume(), self.phases],
            max_epochs=2,
            max_steps=max_steps,
            logger=False,
            deterministic=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    differing = [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]
    assert not differing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2"])
def test_parts_compute_what_the_unsplit_model_does(model_type: str, dtype: torch.dtype, tiny_checkpoint: Tiny) -> None:
    folder = tiny_checkpoint(model_type, tie_word_embeddings=False)
    whole = unsplit(folder, dtype=dtype)
    split = parts_of(folder, MAPS["all"], dtype=dtype)
    ids = token_ids().to("cuda")
    expected, found = whole(ids, labels=ids), split(ids, labels=ids)
    assert torch.equal(expected.logits, found.logits)
    expected.loss.backward(), found.loss.backward()
    gradients = {name: parameter.grad for name, parameter in whole.named_parameters()}
    for part in split.parts:
        for name, parameter in part.model.named_parameters():
            expected_gradient = gradients[part.blueprint.global_name(name, part.spec)]
            assert expected_gradient is not None and parameter.grad is not None
            assert torch.equal(expected_gradient, parameter.grad), name


@pytest.mark.parametrize("devices", ["trunk", "auto"])
def test_parts_on_several_devices_compute_nearly_the_same(devices: str, tiny_checkpoint: Tiny) -> None:
    folder, ids = tiny_checkpoint("llama"), token_ids()
    expected = parts_of(folder, dict.fromkeys(PARTS, "cpu"))(ids).logits
    torch.testing.assert_close(parts_of(folder, MAPS[devices])(ids).logits.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("devices", MAPS)
def test_a_resumed_run_is_the_run_that_was_not_interrupted(
    devices: str, precision: str, tiny_checkpoint: Tiny, tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint("llama", attention_dropout=0.3)
    settings: dict[str, Any] = {"boundary": {"forward": {"codec": "gaussian", "noise_rms": 0.1}}}
    # The same rates whatever the number of steps.
    settings["optimizer"] = {"learning_rate": 1e-3, "schedule": "constant_with_warmup", "warmup_fraction": 0.0}
    whole = Fitted(checkpoint, tmp_path, MAPS[devices], precision, **settings)
    half = Fitted(checkpoint, tmp_path, MAPS[devices], precision, max_steps=4, **settings)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    torch.rand(3, device="cuda"), torch.rand(3)
    resumed = Fitted(checkpoint, tmp_path, MAPS[devices], precision, ckpt_path=tmp_path / "half.ckpt", **settings)
    assert_equal(whole.weights, resumed.weights)
    assert whole.generators[1] == resumed.generators[1]


@pytest.mark.parametrize("devices", MAPS)
def test_phases_make_up_the_step(devices: str, tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    summary = Fitted(tiny_checkpoint("llama"), tmp_path, MAPS[devices], "32-true").phases.summary()
    assert summary is not None and {"bottom", "trunk", "top", "backward", "optimizer"} <= summary.keys()
    phases = sum(figures["median_s"] for name, figures in summary.items() if name not in ("num_steps", "step"))
    assert 0.6 * summary["step"]["median_s"] < phases < 1.2 * summary["step"]["median_s"]


@pytest.mark.filterwarnings("ignore:weights are trained in bfloat16")
@pytest.mark.parametrize(
    ("devices", "precision"), [("all", "bf16-true"), ("all", "bf16-mixed"), ("trunk", "bf16-mixed"), ("auto", "32-true")]
)
def test_a_run_by_the_command(devices: str, precision: str, tmp_path: Path) -> None:
    result = run(tmp_path / "run", SETTINGS[devices], f"trainer.precision={precision}")
    assert {part.spec.name: str(part.device) for part in result.module.parts} == MAPS[devices]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "completed"
    report = json.loads((tmp_path / "run" / "memory_report.json").read_text())
    process = report["epochs"][-1]["process"]
    assert sum(process["gpu_bytes"]) > 0, process


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_folder() / "boundary").glob("*.yaml")))
def test_every_codec_trains(name: str, tmp_path: Path) -> None:
    feedback = ["boundary.forward.error_feedback=true"] if name in ("int4", "topk") else []
    result = run(tmp_path / "run", SETTINGS["trunk"], f"boundary={name}", "trainer.max_steps=5", *feedback)
    assert result.metrics["train_steps"] == 5


@pytest.mark.parametrize("name", ["nopeek", "adversarial", "mid", "dchi"])
@pytest.mark.parametrize("devices", ["all", "trunk"])
def test_every_defence_trains(name: str, devices: str, tmp_path: Path) -> None:
    assert run(tmp_path / "run", SETTINGS[devices], f"defence={name}").metrics["train_steps"] == 2


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_what_frozen_parts_return_is_kept(keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITLEARN_CACHE", str(tmp_path / "cache"))
    settings = ["peft=lora", "peft.parts.bottom=false", f"activation_cache={keep}", "trainer.max_steps=6"]
    assert run(tmp_path / "run", SETTINGS["all"], *settings).metrics["train_steps"] == 6


@pytest.mark.parametrize("setting", ["gradient_checkpointing=true", "peft=lora", "trainer.accumulate_grad_batches=2"])
def test_further_settings(setting: str, tmp_path: Path) -> None:
    assert run(tmp_path / "run", SETTINGS["auto"], setting).metrics["train_steps"] == 2


@pytest.mark.parametrize("devices", ["all", "trunk"])
def test_attacks_change_nothing_of_a_run(devices: str, tmp_path: Path) -> None:
    settings = [SETTINGS[devices], "trainer.max_steps=4", "trainer.deterministic=true"]
    limits = [f"attack.{limit}" for limit in ATTACK]
    generators, weights = [], []
    for name, attacks in {"alone": [], "watched": ["attack=quick", *limits]}.items():
        result = run(tmp_path / name, *settings, *attacks)
        weights.append({key: tensor.detach().cpu() for key, tensor in result.module.named_parameters()})
        generators.append(str(result.module.generators.state()))
    assert_equal(*weights)
    assert generators[0] == generators[1]


@pytest.mark.parametrize("devices", ["trunk"])
def test_a_finished_run_is_attacked_evaluated_and_generated_from(devices: str, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", SETTINGS[devices]).folder
    figures = attack(compose(f"run={folder}", "attack=full", *[f"attack.{limit}" for limit in ATTACK], config_name="attack"))
    assert figures["attacks"]
    assert evaluate(compose(f"run={folder}", config_name="evaluate"))
    assert generate(compose(f"run={folder}", "prompt=The", "max_new_tokens=8", config_name="generate"))


@pytest.mark.parametrize("devices", MAPS)
def test_labels_are_found_where_parts_lie_on_several_devices(devices: str, tiny_checkpoint: Tiny) -> None:
    model = parts_of(tiny_checkpoint("llama"), MAPS[devices])
    for cut in (1, 2):
        auxiliary, validation, test = (collect(model, token_ids(2, 9, seed), cut, BACKWARD) for seed in range(3))
        view = AttackerView(cut, BACKWARD, auxiliary, validation, test, VOCAB_SIZE, PublicModel.of(model))
        result = LabelsByConjugateGradients(8).run(view, Budget(seconds=5), torch.Generator().manual_seed(0))
        assert result.token_recovery > 0.3


@pytest.mark.parametrize("devices", MAPS)
def test_tokens_are_those_of_the_unsplit_model(devices: str, tiny_checkpoint: Tiny) -> None:
    folder = tiny_checkpoint("llama")
    whole, split = unsplit(folder), parts_of(folder, MAPS[devices])
    settings: dict[str, Any] = {"max_new_tokens": 9, "pad_token_id": 0, "do_sample": False}
    ids = token_ids()
    expected = whole.generate(ids.to("cuda"), **settings).cpu()
    assert torch.equal(split.generate(ids.to(split.parts[0].device), **settings).cpu(), expected)


def test_the_model_is_verified_on_the_gpu() -> None:
    _, outcomes = verify(compose("device=cuda", config_name="verify"))
    assert [outcome.subject for outcome in outcomes if not outcome.is_remark and outcome.difference != 0] == []
