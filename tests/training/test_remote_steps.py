"""A trunk whose parameters are out of reach takes the steps that it would take in one process, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from splitlearn.training import SplitCausalLM
from splitlearn.training.part_owner import PartElsewhere
from tests.architectures.catalogue import tiny_model
from tests.training.stand_in import stand_in
from tests.training.test_noisy_resume import assert_equal

STEPS = 20
LORA = {"method": "lora", "settings": {"r": 2, "target_modules": "all-linear", "lora_dropout": 0.1}}
CASES: dict[str, dict[str, Any]] = {
    "tied head": {},
    "clipping": {"trainer": {"gradient_clip_val": 0.05}},
    "accumulation": {"trainer": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}},
    "dropout": {"model": {"model_type": "gpt2", "attn_pdrop": 0.1, "resid_pdrop": 0.1}},
    "LoRA": {"settings": {"peft": LORA}},
    "a frozen bottom": {
        "settings": {"optimizer": {"parts": {"bottom": {"train": False}}}},
        "model": {"tie_word_embeddings": False},
    },
    "a frozen trunk": {"settings": {"optimizer": {"parts": {"trunk": {"train": False}}}}},
    "gradient checkpointing": {"settings": {"gradient_checkpointing": True}},
    "router loss": {"model": {"model_type": "mixtral"}},
    "microbatches": {
        "settings": {"microbatches": 2},
        "trainer": {"gradient_clip_val": 0.05},
        "model": {"attention_dropout": 0.1},
    },
    "microbatches of experts": {"settings": {"microbatches": 2}, "model": {"model_type": "mixtral"}},
    "padding": {"pads": True, "trainer": {"gradient_clip_val": 0.05}},
    "padding in microbatches": {"pads": True, "settings": {"microbatches": 2}},
    "bf16-mixed": {"trainer": {"precision": "bf16-mixed", "gradient_clip_val": 0.05}},
}


class LossLog(Callback):
    """Keeps the losses; may draw random numbers between the steps, as data or another callback might."""

    def __init__(self, draws: bool) -> None:
        self.losses: list[float] = []
        self._draws = draws

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._draws:
            torch.rand(batch_idx + 1)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


def loader(num_batches: int, pads: bool = False) -> DataLoader[Any]:
    """Return batches of two rows, with a different number of pads at the end of each row if ``pads``."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(2 * num_batches):
        ids_T = torch.randint(3, 50, (8,), generator=generator)
        # Micro-batches with different numbers of supervised tokens.
        labels_T = torch.where(torch.arange(8) < number % 3, -100, ids_T)
        row = {"row": torch.tensor(number), "input_ids": ids_T, "labels": labels_T}
        if pads:
            is_token_T = torch.arange(8) < 8 - number % 4
            row |= {"attention_mask": is_token_T.long(), "labels": torch.where(is_token_T, labels_T, -100)}
        rows.append(row)
    return DataLoader(rows, batch_size=2)  # type: ignore[arg-type]


def make_module(checkpoint: Path, settings: dict[str, Any], remote: bool) -> SplitCausalLM:
    torch.manual_seed(0)
    module = SplitCausalLM(str(checkpoint), 2, 4, **settings)
    if remote:
        trunk, _ = stand_in(checkpoint, (2, 4), module.settings, module.generators)
        module.connect({"trunk": cast(PartElsewhere, trunk)})
        # The other party draws nothing of this.
        torch.rand(5)
    module.load_parts()
    return module


def fit(checkpoint: Path, case: dict[str, Any], *, remote: bool, stop: int = STEPS, **fit: Any) -> tuple[Trainer, list[float]]:
    module = make_module(checkpoint, case.get("settings", {}), remote)
    log, settings = LossLog(remote), case.get("trainer", {})
    trainer = Trainer(
        accelerator="cpu",
        max_steps=stop,
        callbacks=[log],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **settings,
    )
    torch.manual_seed(1)
    batches = loader(STEPS * settings.get("accumulate_grad_batches", 1), case.get("pads", False))
    trainer.fit(module, batches, weights_only=True, **fit)
    return trainer, log.losses


def content_of(trainer: Trainer, path: Path) -> dict[str, Any]:
    trainer.save_checkpoint(path)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def make_checkpoint(case: dict[str, Any], tiny_checkpoint: Callable[..., Path], folder: Path) -> Path:
    changes = dict(case.get("model", {}))
    name = changes.pop("model_type", "llama")
    if name == "mixtral":
        tiny_model("mixtral", output_router_logits=True).save_pretrained(folder / "model")
        return folder / "model"
    return tiny_checkpoint(name, **changes)


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_are_those_of_one_process(name: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    case = CASES[name]
    checkpoint = make_checkpoint(case, tiny_checkpoint, tmp_path)
    one, expected_losses = fit(checkpoint, case, remote=False)
    other, losses = fit(checkpoint, case, remote=True)
    assert other.global_step == one.global_step == STEPS
    assert losses == expected_losses
    meters = [cast(SplitCausalLM, trainer.lightning_module).composed.meter.totals() for trainer in (one, other)]
    assert meters[0] == meters[1]
    reached = {path.split(".")[1] for path, _ in other.lightning_module.named_parameters()}
    assert "trunk" not in reached
    expected, found = content_of(one, tmp_path / "one.ckpt"), content_of(other, tmp_path / "other.ckpt")
    assert expected["state_dict"].keys() == found["state_dict"].keys()
    assert all(torch.equal(tensor, found["state_dict"][key]) for key, tensor in expected["state_dict"].items())
    (whole,), (divided,) = expected["optimizer_states"], found["optimizer_states"]
    assert whole["state"].keys() == divided["state"].keys()
    assert whole["param_groups"] == divided["param_groups"]
    for key, state in whole["state"].items():
        assert all(torch.equal(value, divided["state"][key][entry]) for entry, value in state.items())
    assert expected["generators"]["states"].keys() == found["generators"]["states"].keys() == {"bottom", "trunk", "top"}
    for part, states in expected["generators"]["states"].items():
        assert torch.equal(states["cpu"], found["generators"]["states"][part]["cpu"]), part


# Both go on with the epoch's first batch.
@pytest.mark.filterwarnings("ignore:.* your dataloader is not resumable")
@pytest.mark.parametrize("name", ["clipping", "dropout"])
@pytest.mark.parametrize("from_remote", [True, False])
def test_a_run_goes_on_under_the_other_placement(
    from_remote: bool, name: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    case = CASES[name]
    checkpoint = make_checkpoint(case, tiny_checkpoint, tmp_path)
    first, _ = fit(checkpoint, case, remote=from_remote, stop=7)
    content_of(first, tmp_path / "first.ckpt")
    torch.manual_seed(5)
    resumed = [fit(checkpoint, case, remote=remote, ckpt_path=tmp_path / "first.ckpt") for remote in (True, False)]
    assert [trainer.global_step for trainer, _ in resumed] == [STEPS, STEPS]
    assert resumed[0][1] == resumed[1][1]
    # As many random numbers have been drawn as in a run that was not interrupted.
    whole, _ = fit(checkpoint, case, remote=False)
    expected = content_of(whole, tmp_path / "whole.ckpt")["generators"]["states"]
    for trainer, _ in resumed:
        found = content_of(trainer, tmp_path / "end.ckpt")["generators"]["states"]
        assert {part: states["cpu"].tolist() for part, states in found.items()} == {
            part: states["cpu"].tolist() for part, states in expected.items()
        }


REMEMBERING: dict[str, Any] = {
    "reuse": {"forward": {"codec": "reuse", "threshold": 0.1}, "backward": {"codec": "int4", "error_feedback": True}},
    "noise": {"forward": {"codec": "int4", "error_feedback": True}, "backward": {"codec": "gaussian", "noise_rms": 0.3}},
}


@pytest.mark.filterwarnings("ignore:.* your dataloader is not resumable")
@pytest.mark.parametrize("name", REMEMBERING)
def test_what_codecs_remember_elsewhere_is_in_checkpoints(
    name: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    case = {"settings": {"boundary": REMEMBERING[name]}}
    checkpoint = tiny_checkpoint("llama")
    contents = []
    for remote in (False, True):
        first, _ = fit(checkpoint, case, remote=remote, stop=3)
        contents.append(content_of(first, tmp_path / f"{remote}.ckpt"))
    assert_equal(contents[0]["codecs"], contents[1]["codecs"])
    assert_equal(contents[0]["generators"]["states"], contents[1]["generators"]["states"])
    # The epoch begins anew, so that its first examples have been met before.
    ends = [
        fit(checkpoint, case, remote=remote, stop=6, ckpt_path=tmp_path / f"{before}.ckpt")
        for before, remote in ((False, False), (True, True), (False, True), (True, False))
    ]
    assert all(losses == ends[0][1] for _, losses in ends)
    last = [content_of(trainer, tmp_path / "end.ckpt") for trainer, _ in ends]
    for content in last[1:]:
        for key in ("state_dict", "codecs"):
            assert_equal(content[key], last[0][key])


def test_clipping_by_value_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    case = {"trainer": {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}}
    with pytest.raises(ValueError, match="with parts held elsewhere use 'norm'"):
        fit(tiny_checkpoint("llama"), case, remote=True, stop=1)
