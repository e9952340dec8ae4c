from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from splitlearn.training import SplitCausalLM
from tests.training.test_module import OPTIMIZER, batches, fit, loader, trainer

LORA = {"method": "lora", "settings": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}}


def module_of(folder: Path, **settings: Any) -> SplitCausalLM:
    torch.manual_seed(7)
    return SplitCausalLM(str(folder), 2, 4, **{"optimizer": OPTIMIZER, **settings})


@pytest.mark.parametrize(("what", "ending"), [("biases", "bias"), ("norms", "norm")])
def test_small_tensors_alone(what: str, ending: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    parts = {name: {"train": what} for name in ("bottom", "trunk", "top")}
    module = module_of(tiny_checkpoint("qwen2"), optimizer={**OPTIMIZER, "parts": parts})
    before = None
    module.load_parts()
    before = {name: each.clone() for name, each in module.named_parameters()}
    fit(module, batches([2, 3]), tmp_path)
    changed = {name for name, each in module.named_parameters() if not torch.equal(each, before[name])}
    assert changed and all(ending in name for name in changed)
    assert changed == {name for name, each in module.named_parameters() if each.requires_grad}


def test_training_adapters_takes_the_steps_that_peft_takes(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", attention_dropout=0.0)
    data = batches([2, 3, 2, 3])
    module = module_of(folder, peft=LORA)
    module.load_parts()
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    ours = {
        part.blueprint.global_name(name, part.spec): each
        for part in module.parts
        for name, each in part.model.named_parameters()
        if each.requires_grad
    }
    theirs = {name.removeprefix("base_model.model."): each for name, each in model.named_parameters() if each.requires_grad}
    assert ours.keys() == theirs.keys()
    with torch.no_grad():
        for name, each in theirs.items():
            each.copy_(ours[name])
    fit(module, data, tmp_path)
    optimizer = torch.optim.AdamW(theirs.values(), lr=1e-3, weight_decay=0.01)
    for index, batch in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (index / 2 if index < 2 else (4 - index) / 2)
        optimizer.zero_grad()
        model.train()(**batch).loss.backward()
        optimizer.step()
    for name, each in theirs.items():
        torch.testing.assert_close(ours[name], each, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_of_adapters_holds_them_alone_and_resumes(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama")
    module = module_of(folder, peft=LORA)
    made = fit(module, batches([2, 3]), tmp_path)
    path = tmp_path / "adapters.ckpt"
    made.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)
    assert all("lora_" in name for name in stored["state_dict"])
    again = module_of(folder, peft=LORA)
    trainer(tmp_path, max_epochs=2).fit(again, loader(batches([2, 3])), ckpt_path=str(path), weights_only=True)
    assert again.trainer.global_step == 4


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_checkpointed_gradients_are_the_same_and_leave_no_adapter_out(
    model_type: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        module = module_of(tiny_checkpoint(model_type), peft=LORA, gradient_checkpointing=is_checkpointed)
        module.load_parts()
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.ones_(parameter)
        torch.manual_seed(1)
        batch = batches([2])[0]
        module.composed.train()(**batch).loss.backward()
        gradients.append({name: each.grad for name, each in module.named_parameters() if each.requires_grad})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert gradient is not None and gradient.abs().sum() > 0, name
        again = checkpointed[name]
        assert again is not None and torch.equal(gradient, again), name


def test_frozen_parts_get_no_adapters_and_are_run_once(tiny_checkpoint: Callable[..., Path]) -> None:
    parts = {"bottom": {"train": False}, "trunk": {"train": "frozen"}}
    module = module_of(tiny_checkpoint("llama"), peft=LORA, optimizer={"parts": parts}, gradient_checkpointing=True)
    module.load_parts()
    assert module.trained == {"bottom": "frozen", "trunk": "frozen", "top": "adapters"}
    assert [any("lora_" in name for name, _ in part.named_parameters()) for part in module.parts] == [False, False, True]
    calls = []
    for part in module.parts:
        layer: Any = part.layers[0]
        layer.mlp.register_forward_pre_hook(lambda mlp, inputs, name=part.spec.name: calls.append(name))
    trunk = module.parts[1]
    trunk.register_forward_hook(lambda part, inputs, output: calls.append(f"needs gradients: {output.requires_grad}"))
    module.composed.train()(**batches([2])[0]).loss.backward()
    assert calls == ["bottom", "trunk", "needs gradients: False", "top", "top"], "the top's layers run again, no others"


def test_frozen_weights_keep_no_gradients_and_no_optimizer_state(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    module = module_of(
        tiny_checkpoint("llama", tie_word_embeddings=False), optimizer={**OPTIMIZER, "parts": {"trunk": {"train": False}}}
    )
    made = fit(module, batches([2]), tmp_path)
    trunk = set(module.parts[1].parameters())
    assert not any(each.grad is not None for each in trunk)
    assert not trunk & set(made.optimizers[0].state)
    receipts = [part.receipt for part in module.parts]
    assert [bool(each and each.mapped_bytes) for each in receipts] == [False, True, False], "and its weights stay mapped"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimizer": {"parts": {"top": {"train": "some"}}}},
            r"optimizer.parts.top.train is 'some'; use true, false or one of",
        ),
        ({"optimizer": {"parts": {"top": {"train": "adapters"}}}}, "optimizer.parts.top.train is adapters, but top has none"),
        ({"optimizer": {"parts": {"top": {"train": "biases"}}}}, "optimizer.parts.top.train is biases, but top has none"),
        (
            {"optimizer": {"parts": {"top": {"train": "norms"}}}, "peft": LORA},
            "top has adapters, and would be saved as them alone",
        ),
        ({"optimizer": {"parts": {name: {"train": "frozen"} for name in ("bottom", "trunk", "top")}}}, "nothing to train"),
    ],
)
def test_what_cannot_be_trained(settings: dict[str, Any], message: str, tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=message):
        module_of(tiny_checkpoint("llama", tie_word_embeddings=False), **settings).load_parts()
