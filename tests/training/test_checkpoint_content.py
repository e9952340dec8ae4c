"""A checkpoint speaks of tensors by the unsplit model's names, so whoever holds a part finds its share in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from transformers import AutoModelForCausalLM

from splitlearn.checkpoint import CheckpointError
from splitlearn.loading import ModelFactory
from splitlearn.model import SplitModel, find_ties, named_parameters, trained_parameters
from splitlearn.training import SplitCausalLM
from splitlearn.training.checkpoint_content import (
    LAYOUT_KEY,
    LAYOUT_VERSION,
    check_layout,
    load_gradients,
    load_trained_tensors,
    speak_names,
    trained_tensors,
)
from splitlearn.training.optimization import Optimization
from tests.training.test_module import OPTIMIZER, batches, fit, loader, trainer

CONSTANT = {**OPTIMIZER, "schedule": "constant_with_warmup", "warmup_fraction": 0.0}
LORA = {"method": "lora", "settings": {"r": 2, "target_modules": ["q_proj", "up_proj"], "use_dora": True}}
DATA = batches([3, 2, 4])


def saved(folder: Path, tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """Return the checkpoint of a short run."""
    torch.manual_seed(0)
    made = fit(SplitCausalLM(str(folder), 2, 4, **{"optimizer": CONSTANT, **settings}), DATA, tmp_path)
    made.save_checkpoint(tmp_path / "last.ckpt")
    content: dict[str, Any] = torch.load(tmp_path / "last.ckpt", weights_only=True)
    return content


def train_unsplit(folder: Path) -> tuple[Any, torch.optim.AdamW]:
    """Train the whole model with torch's AdamW alone, on the same batches."""
    whole = AutoModelForCausalLM.from_pretrained(folder).train()
    groups = [
        {"params": [each for each in whole.parameters() if each.ndim > 1], "weight_decay": 0.01},
        {"params": [each for each in whole.parameters() if each.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    for batch in DATA:
        whole(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return whole, optimizer


@pytest.mark.parametrize(("model_type", "tied"), [("gpt2", True), ("qwen2", True), ("llama", False), ("mixtral", False)])
def test_tensors_and_optimizer_state_are_those_of_the_unsplit_model(
    model_type: str, tied: bool, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if model_type == "gpt2" else {"attention_dropout": 0.0}
    folder = tiny_checkpoint(model_type, tie_word_embeddings=tied, **dropout)
    content = saved(folder, tmp_path)
    whole, optimizer = train_unsplit(folder)
    assert content[LAYOUT_KEY] == LAYOUT_VERSION
    assert content["state_dict"].keys() <= whole.state_dict().keys()
    parameters = dict(whole.named_parameters())
    assert content["state_dict"].keys() == parameters.keys(), "a tied parameter is there once"
    assert all(torch.equal(content["state_dict"][name], parameter) for name, parameter in parameters.items())
    state = content["optimizer_states"][0]["state"]
    assert state.keys() == parameters.keys()
    for name, parameter in parameters.items():
        assert state[name].keys() == optimizer.state[parameter].keys()
        assert all(torch.equal(state[name][key], value) for key, value in optimizer.state[parameter].items()), name
    groups = {group["name"]: group for group in content["optimizer_states"][0]["param_groups"]}
    names = [name for group in groups.values() for name in group["params"]]
    assert sorted(names) == sorted(parameters)
    for name, group in groups.items():
        assert group["weight_decay"] == (0.0 if name.endswith("/no_decay") else 0.01)
        assert all((parameters[each].ndim > 1) == (group["weight_decay"] > 0) for each in group["params"])


def test_adapters_have_pefts_path_below_the_unsplit_models_layers(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    content = saved(tiny_checkpoint("llama"), tmp_path, peft=LORA)
    kinds = ("lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight")
    modules = ("self_attn.q_proj", "mlp.up_proj")
    expected = {f"model.layers.{layer}.{module}.{kind}" for layer in range(6) for module in modules for kind in kinds}
    assert content["state_dict"].keys() == content["optimizer_states"][0]["state"].keys() == expected


def on_two_devices(parts: Sequence[SplitModel], devices: dict[str, str]) -> None:
    """Make a tied head a tensor of its own, as it is where bottom and top are on two devices."""
    for tie in find_ties(parts):
        (_, _), (borrower, name) = tie.owner, tie.borrower
        path, _, leaf = name.rpartition(".")
        setattr(borrower.model.get_submodule(path), leaf, nn.Parameter(tie.parameters[0].detach().clone()))


def tied_module(folder: Path, is_shared: bool, monkeypatch: pytest.MonkeyPatch) -> SplitCausalLM:
    """Return a module with loaded parts, whose tied head is one parameter or two tensors."""
    module = SplitCausalLM(str(folder), 2, 4, optimizer=CONSTANT)
    with monkeypatch.context() as patched:
        if not is_shared:
            patched.setattr("splitlearn.loading.load_model.tie_parts", on_two_devices)
        module.load_parts()
    assert [tie.is_shared for tie in find_ties(module.parts)] == [is_shared]
    return module


@pytest.mark.parametrize("first_is_shared", [True, False])
def test_a_tied_head_goes_on_on_one_device_or_two(
    first_is_shared: bool, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint("qwen2", tie_word_embeddings=True, attention_dropout=0.0)
    ended: list[SplitCausalLM] = []
    stored: list[dict[str, Any]] = []
    for is_shared in (first_is_shared, not first_is_shared):
        module = tied_module(folder, is_shared, monkeypatch)
        made = trainer(tmp_path, max_epochs=1 + len(ended))
        made.fit(module, loader(DATA), ckpt_path=tmp_path / "last.ckpt" if ended else None, weights_only=True)
        made.save_checkpoint(tmp_path / "last.ckpt")
        stored.append(torch.load(tmp_path / "last.ckpt", weights_only=True))
        ended.append(module)
    assert stored[0]["state_dict"].keys() == stored[1]["state_dict"].keys()
    assert "lm_head.weight" not in stored[0]["state_dict"]
    whole = SplitCausalLM(str(folder), 2, 4, optimizer=CONSTANT)
    trainer(tmp_path, max_epochs=2).fit(whole, loader(DATA))
    expected = trained_parameters(whole.parts)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in trained_parameters(ended[1].parts).items())
    top = ended[1].parts[2].model.get_output_embeddings()
    assert torch.equal(top.weight, expected["model.embed_tokens.weight"])


class SaveAfter(Callback):
    """Writes a checkpoint in the middle of a step."""

    def __init__(self, path: Path, batch_idx: int) -> None:
        self._path, self._batch_idx = path, batch_idx

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self._batch_idx:
            trainer.save_checkpoint(self._path)


def test_gradients_of_an_unfinished_step_have_the_names_too(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint("qwen2", tie_word_embeddings=True, attention_dropout=0.0)
    kept = {}
    for is_shared in (True, False):
        module = tied_module(folder, is_shared, monkeypatch)
        save = SaveAfter(tmp_path / "middle.ckpt", 0)
        trainer(tmp_path, callbacks=[save], accumulate_grad_batches=3).fit(module, loader(DATA))
        kept[is_shared] = torch.load(tmp_path / "middle.ckpt", weights_only=True)["unfinished_step"]["gradients"]
    names = set(dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters()))
    assert kept[True].keys() == names
    assert kept[False].keys() == names | {"lm_head.weight"}, "both ends have a gradient until the step"
    parts = SplitCausalLM(str(folder), 2, 4)
    parts.load_parts()
    for gradients in kept.values():
        load_gradients(parts.parts, gradients)
        for name, parameter in trained_parameters(parts.parts).items():
            assert parameter.grad is not None and torch.equal(parameter.grad, kept[True][name]), name


def load(folder: Path, *names: str) -> list[SplitModel]:
    parts = ModelFactory.load_parts(str(folder), 2, 4, parts=names).parts
    return [parts[name].train() for name in names]


def step(parts: Sequence[nn.Module], optimizer: torch.optim.Optimizer) -> None:
    for index, parameter in enumerate(each for part in parts for each in part.parameters()):
        parameter.grad = torch.full_like(parameter, 1e-3 * (index + 1))
    optimizer.step()


def test_who_holds_the_trunk_alone_takes_its_share(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama")
    content = saved(folder, tmp_path)
    settings = Optimization.from_plain(CONSTANT)
    ended, states = [], []
    for names in (("bottom", "trunk", "top"), ("trunk",)):
        parts = load(folder, *names)
        optimizer = settings.make_optimizer(parts)
        speak_names(optimizer, parts)
        load_trained_tensors(parts, content["state_dict"])
        # torch takes the tensors themselves, and steps change them.
        optimizer.load_state_dict(copy.deepcopy(content["optimizer_states"][0]))
        trunk = next(part for part in parts if part.spec.name == "trunk")
        trunks = [group for group in optimizer.param_groups if group["name"].startswith("trunk")]
        assert len(trunks) == 2
        step([trunk], optimizer)
        ended.append(trained_tensors([trunk]))
        states.append(optimizer.state_dict())
    layers = ("model.layers.2.", "model.layers.3.")
    assert ended[0].keys() == ended[1].keys() == {name for name in content["state_dict"] if name.startswith(layers)}
    assert all(torch.equal(tensor, ended[0][name]) for name, tensor in ended[1].items())
    assert not any(torch.equal(tensor, content["state_dict"][name]) for name, tensor in ended[1].items())
    assert states[1]["state"].keys() == ended[1].keys()
    for name, state in states[1]["state"].items():
        assert all(torch.equal(value, states[0]["state"][name][key]) for key, value in state.items()), name


def test_order_does_not_matter_but_names_do(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    content = saved(tiny_checkpoint("llama"), tmp_path)
    state = content["optimizer_states"][0]
    (trunk,) = load(tiny_checkpoint("llama"), "trunk")
    optimizer = Optimization.from_plain(CONSTANT).make_optimizer([trunk])
    speak_names(optimizer, [trunk])
    turned = {**state, "param_groups": [{**group, "params": group["params"][::-1]} for group in state["param_groups"][::-1]]}
    optimizer.load_state_dict(turned)
    assert all(
        torch.equal(value, state["state"][name][key])
        for name, own in optimizer.state_dict()["state"].items()
        for key, value in own.items()
    )
    lacking = {**state, "param_groups": [group for group in state["param_groups"] if group["name"] != "trunk/no_decay"]}
    with pytest.raises(CheckpointError, match="lacks the group 'trunk/no_decay'; it has bottom, bottom/no_decay, trunk, top"):
        optimizer.load_state_dict(lacking)
    fewer = [{**group, "params": group["params"][1:]} for group in state["param_groups"]]
    with pytest.raises(CheckpointError, match=r"'trunk' .* has other parameters than this run's: model\.layers\.2\.self_attn"):
        optimizer.load_state_dict({**state, "param_groups": fewer})


def test_nothing_is_copied_for_a_checkpoint(tiny_checkpoint: Callable[..., Path]) -> None:
    (trunk,) = parts = load(tiny_checkpoint("llama"), "trunk")
    optimizer = Optimization.from_plain(CONSTANT).make_optimizer(parts)
    speak_names(optimizer, parts)
    step(parts, optimizer)
    own = {each.data_ptr() for each in trunk.parameters()}
    assert {tensor.data_ptr() for tensor in trained_tensors(parts).values()} == own
    moments = {state["exp_avg"].data_ptr() for state in optimizer.state.values()}
    assert {state["exp_avg"].data_ptr() for state in optimizer.state_dict()["state"].values()} == moments


def test_trained_tensors_are_filled_in_at_both_ends_of_a_tie(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for is_shared in (True, False):
        module = tied_module(tiny_checkpoint("qwen2", tie_word_embeddings=True), is_shared, monkeypatch)
        wanted = {name: tensor + 1 for name, tensor in trained_tensors(module.parts).items()}
        load_trained_tensors(module.parts, wanted)
        assert all(torch.equal(parameter, wanted[name]) for name, parameter in trained_parameters(module.parts).items())
        head = named_parameters(module.parts)["lm_head.weight"]
        assert torch.equal(head, wanted["model.embed_tokens.weight"])


def test_what_does_not_fit_the_parts_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    (trunk,) = parts = load(tiny_checkpoint("llama"), "trunk")
    tensors = trained_tensors(parts)
    name = "model.layers.3.input_layernorm.weight"
    with pytest.raises(CheckpointError, match=rf"lacks trained tensors: {name}"):
        load_trained_tensors([trunk], {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match=rf"{name} has shape \(2,\), but the model needs \(64,\)"):
        load_trained_tensors([trunk], {**tensors, name: torch.zeros(2)})


def test_another_layout_is_refused_with_what_to_do(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama")
    content = saved(folder, tmp_path)
    check_layout(content)
    for version, older in (
        (4, {**content, LAYOUT_KEY: 4}),
        (2, {**content, LAYOUT_KEY: 2}),
        (1, {key: content[key] for key in content if key != LAYOUT_KEY}),
    ):
        torch.save(older, tmp_path / "older.ckpt")
        message = rf"has layout {version}, .* train again, or export it with the release that wrote it"
        with pytest.raises(CheckpointError, match=message):
            module = SplitCausalLM(str(folder), 2, 4, optimizer=CONSTANT)
            trainer(tmp_path).fit(module, loader(DATA), ckpt_path=tmp_path / "older.ckpt", weights_only=True)
        with pytest.raises(CheckpointError, match=message):
            SplitCausalLM.load_from_checkpoint(tmp_path / "older.ckpt", weights_only=True)
