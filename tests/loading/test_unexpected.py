"""What lies beside a complete model is left out and told; what speaks for another model is refused by name."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from splitlearn.app import compose, plan, train, verify
from splitlearn.checkpoint import CheckpointError
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from tests.architectures.catalogue import tiny_model as tiny_architecture
from tests.architectures.published import published_model
from tests.tiny_models import token_ids

Tensors = dict[str, torch.Tensor]
# Tests of what is left out do not all look at the warning, which comes with each loading.
pytestmark = pytest.mark.filterwarnings("ignore:.*left out \\d+ tensors? that the model does not have")


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint("llama", tie_word_embeddings=False, max_shard_size="1GB"), tmp_path / "model")


def change(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = {name: each.clone() for name, each in change(load_file(folder / "model.safetensors")).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def add(folder: Path, *names: str) -> None:
    change(folder, lambda tensors: tensors | {name: torch.randn(4, 4) for name in names})


def assert_equal_to_transformers(folder: Path, dtype: torch.dtype | None = None) -> None:
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    for low_memory in (True, False):
        parts = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=low_memory, dtype=dtype)
        with torch.no_grad():
            expected = whole(token_ids(), use_cache=False).logits
            assert torch.equal(ComposedCausalLM(*parts).eval()(token_ids()).logits, expected)


BESIDE = {
    "a tower": ["vision_tower.encoder.layers.0.self_attn.q_proj.weight", "multi_modal_projector.linear.weight"],
    "an encoder": ["model.encoder.layers.0.self_attn.q_proj.weight", "encoder.embed_tokens.weight"],
    "sound": ["audio_tower.conv1.weight", "audio_tower.layers.3.fc1.weight"],
    "a pooler": ["model.pooler.dense.weight", "model.pooler.dense.bias"],
    "a value head": ["v_head.summary.weight", "score.weight"],
    "layers ahead, apart": ["mtp.layers.0.self_attn.q_proj.weight", "mtp.fc.weight", "model.mtp_layers.0.input_proj.weight"],
    "layers ahead, with a head of their own": ["model.mtp.lm_head.weight", "model.mtp.embed_tokens.weight"],
    "buffers": ["model.layers.2.self_attn.rotary_emb.cos_cached", "model.layers.2.self_attn.causal_mask", "scale_buffer"],
    "a second copy": ["_orig_mod.model.layers.0.mlp.up_proj.weight"],
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_a_complete_model_is_left_out_and_told(what: str, folder: Path) -> None:
    add(folder, *BESIDE[what])
    with pytest.warns(UserWarning, match=rf"left out {len(BESIDE[what])} tensors? that the model does not have: "):
        loaded = ModelFactory.load_parts(folder, 2, 4)
    assert set(loaded.receipt.left_out) == set(BESIDE[what])
    assert_equal_to_transformers(folder)
    cost = plan(compose("model=pretrained", f"model.name_or_path={folder}", "split=thirds", config_name="plan"))
    assert set(cost.left_out) == set(BESIDE[what])


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("architecture", ["deepseek_v3", "glm4_moe", "mixtral"])
def test_layers_that_predict_ahead_after_the_last(architecture: str, depth: int, tmp_path: Path) -> None:
    """They look like the last layer and have projections of their own."""
    tiny_architecture(architecture).save_pretrained(tmp_path)

    def copy_last(tensors: Tensors) -> Tensors:
        more: Tensors = {}
        for layer in range(6, 6 + depth):
            more |= {name.replace(".5.", f".{layer}.", 1): each for name, each in tensors.items() if ".layers.5." in name}
            more[f"model.layers.{layer}.eh_proj.weight"] = torch.randn(4, 8)
        return tensors | more

    change(tmp_path, copy_last)
    assert_equal_to_transformers(tmp_path, torch.float32)
    assert ModelFactory.load_parts(tmp_path, 2, 4).receipt.left_out


def test_further_layers_like_all_others_are_the_models_own(folder: Path) -> None:
    """Unless the configuration announces layers that predict ahead, one more of the same is a configuration too short."""
    change(folder, lambda old: old | {name.replace(".5.", ".6."): each for name, each in old.items() if ".layers.5." in name})
    with pytest.raises(CheckpointError, match=r"model of 6 layers does not have: model\.layers\.6\."):
        ModelFactory.load_parts(folder, 2, 4)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    assert_equal_to_transformers(folder)


WRONG = {
    "within a layer": "model.layers.3.mlp.spare.weight",
    "an adapter's": "model.layers.3.self_attn.q_proj.lora_A.weight",
    "a bias that the head lacks": "lm_head.bias",
    "a bias that the last norm lacks": "model.norm.bias",
}


@pytest.mark.parametrize("what", WRONG)
def test_what_speaks_for_another_model_is_refused(what: str, folder: Path) -> None:
    add(folder, WRONG[what])
    for low_memory in (True, False):
        with pytest.raises(CheckpointError, match=rf"does not have: {WRONG[what]}; mend its config\.json, or take it without"):
            ModelFactory.create_split_models(None, folder, 2, 4, low_memory=low_memory)


def test_a_misnamed_copy_of_what_is_not_stored_is_refused(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """The head is tied, so nothing is missing; but under another name there is one that differs."""
    folder = shutil.copytree(tiny_checkpoint("llama", tie_word_embeddings=True, max_shard_size="1GB"), tmp_path / "model")
    add(folder, "_orig_mod.lm_head.weight")
    with pytest.raises(CheckpointError, match=r"does not have: _orig_mod\.lm_head\.weight"):
        ModelFactory.load_parts(folder, 2, 4)


def test_what_is_missing_is_told_with_what_stands_in_its_place(folder: Path) -> None:
    change(folder, lambda tensors: {name.replace("lm_head", "score"): each for name, each in tensors.items()})
    with pytest.raises(CheckpointError, match=r"needs: lm_head\.weight; it holds others that .* not have: score\.weight$"):
        ModelFactory.load_parts(folder, 2, 4)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["weight"], ["qweight", "qzeros", "scales"]),
        (["weight"], ["weight", "weight_scale_inv"]),
        (["weight"], ["weight", "weight.absmax", "weight.quant_state.bitsandbytes__nf4"]),
    ],
)
def test_quantized_weights_without_a_word_in_the_configuration(old: list[str], new: list[str], folder: Path) -> None:
    name = "model.layers.3.mlp.up_proj."
    change(
        folder,
        lambda tensors: (
            {key: each for key, each in tensors.items() if key not in [name + end for end in old]}
            | {name + end: torch.ones(96, 64) for end in new}
        ),
    )
    with pytest.raises(CheckpointError, match="these are quantized weights"):
        ModelFactory.load_parts(folder, 2, 4)


def test_the_setting_refuses_all_or_none(folder: Path, tmp_path: Path) -> None:
    add(folder, "vision_tower.weight")
    with pytest.raises(CheckpointError, match=r"does not have: vision_tower\.weight"):
        ModelFactory.load_parts(folder, 2, 4, unexpected_tensors="refuse")
    model = ("model=pretrained", f"model.name_or_path={folder}", "split=thirds")
    strict = (*model, "model.unexpected_tensors=refuse")
    for command in (plan, verify):
        with pytest.raises(CheckpointError, match="vision_tower"):
            command(compose(*strict, config_name=command.__name__))
    with pytest.raises(CheckpointError, match="vision_tower"):
        train(compose(*strict), tmp_path / "run")
    add(folder, "model.layers.3.mlp.spare.weight")
    for low_memory in (True, False):
        ModelFactory.create_split_models(None, folder, 2, 4, low_memory=low_memory, unexpected_tensors="leave_out")
    lenient = (*model, "model.unexpected_tensors=leave_out", "gradients=false", "new_tokens=0")
    assert all(each.is_equal(0.0) for each in verify(compose(*lenient, config_name="verify"))[1])
    with pytest.raises(ValueError, match=r"^unexpected_tensors is 'maybe'; use one of auto, refuse, leave_out"):
        ModelFactory.load_parts(folder, 2, 4, unexpected_tensors="maybe")
    change(folder, lambda tensors: {name: each for name, each in tensors.items() if name != "lm_head.weight"})
    with pytest.raises(CheckpointError, match=r"lacks tensors that the model needs: lm_head\.weight"):
        ModelFactory.load_parts(folder, 2, 4, unexpected_tensors="leave_out")


@pytest.mark.parametrize("architecture", ["llama4", "qwen3_5"])
def test_the_text_model_of_a_composite_checkpoint_needs_no_warning(architecture: str, tmp_path: Path) -> None:
    published_model(architecture).save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert_equal_to_transformers(tmp_path, torch.float32)


def test_verbose_loading_mentions_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(folder, "vision_tower.weight")
    for low_memory in (True, False):
        ModelFactory.create_split_models(None, folder, 2, 4, low_memory=low_memory, verbose=True)
        printed = " ".join(capsys.readouterr().out.split())
        assert "left out" in printed and "vision_tower.weight" in printed
