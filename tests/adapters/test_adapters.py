"""Adapters on the parts are PEFT's on the unsplit model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from splitlearn.adapters import AdapterSettings, add_adapters, load_adapters, merge_adapters, save_adapters
from splitlearn.adapters.layers import adapted_modules
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM, SplitModel
from tests.tiny_models import token_ids

LORA: dict[str, Any] = {"method": "lora", "settings": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}}
PER_PART: dict[str, Any] = {**LORA, "parts": {"trunk": {"r": 2, "lora_alpha": 16}}}


def adapted(folder: Path, plain: Mapping[str, Any], dtype: torch.dtype | None = None) -> tuple[SplitModel, ...]:
    """Load three parts, put adapters into them, and give these random values: fresh ones do nothing."""
    torch.manual_seed(3)
    parts = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True, dtype=dtype)
    for added in add_adapters(parts, AdapterSettings.from_plain(plain)).values():
        for parameter in added:
            torch.nn.init.normal_(parameter, std=0.2)
    return parts


def logits_of(parts: tuple[SplitModel, ...]) -> torch.Tensor:
    bottom, trunk, top = parts
    with torch.no_grad():
        logits: torch.Tensor = ComposedCausalLM(bottom, trunk, top).eval()(token_ids()).logits
    return logits


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2", "gemma2", "phi3"])
@pytest.mark.parametrize("plain", [LORA, PER_PART], ids=["alike", "per part"])
def test_peft_reads_them_for_the_unsplit_model(
    model_type: str, plain: dict[str, Any], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint(model_type)
    parts = adapted(folder, plain)
    save_adapters(parts, AdapterSettings.from_plain(plain), tmp_path / "adapters")
    base = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        before = base(token_ids()).logits
        whole = PeftModel.from_pretrained(base, str(tmp_path / "adapters")).eval()
        expected = whole(input_ids=token_ids()).logits
    assert torch.equal(expected, logits_of(parts))
    assert not torch.allclose(expected, before, atol=0.1), "the adapters do something"


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
@pytest.mark.parametrize(
    "plain",
    [
        {"method": "ia3", "settings": {"target_modules": "all-linear"}},
        {"method": "lora", "settings": {"r": 2, "use_dora": True, "target_modules": ["q_proj", "down_proj"]}},
        {"method": "loha", "settings": {"r": 2, "target_modules": ["v_proj"]}},
        {**LORA, "parts": {"bottom": False, "trunk": False}},
        {"method": "lora", "settings": {"r": 2, "target_modules": r".*\.3\.self_attn\.(q|v)_proj"}},
        {"method": "lora", "settings": {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [1, 5]}},
        {"method": "lora", "settings": {"r": 2, "target_modules": ["q_proj"], "rank_pattern": {r"layers\.4\..*q_proj": 3}}},
        {
            "method": "lora",
            "settings": {"r": 2, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 3}},
            "parts": {"top": {"r": 5}},
        },
        {**LORA, "settings": {**LORA["settings"], "exclude_modules": r".*\.layers\.(0|5)\..*"}},
        {**LORA, "settings": {**LORA["settings"], "modules_to_save": ["lm_head", "norm"]}},
        {**LORA, "settings": {**LORA["settings"], "modules_to_save": ["layers.3.input_layernorm"]}},
        {"method": "ia3", "settings": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}},
        {**LORA, "settings": {**LORA["settings"], "modules_to_save": ["norm"]}, "parts": {"trunk": False}},
        {"method": "lora", "settings": {"r": 2, "target_modules": ["embed_tokens", "q_proj", "lm_head"]}},
    ],
    ids=[
        "ia3",
        "dora",
        "loha",
        "top alone",
        "regular expression",
        "some layers",
        "ranks by pattern",
        "ranks by pattern and part",
        "left out",
        "modules to save",
        "a layer's module to save",
        "feed-forward modules",
        "modules to save in some parts",
        "modules of some parts",
    ],
)
def test_other_methods_and_choices(plain: dict[str, Any], tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tie_word_embeddings=False)
    parts = adapted(folder, plain)
    save_adapters(parts, AdapterSettings.from_plain(plain), tmp_path)
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(whole(input_ids=token_ids()).logits, logits_of(parts))


@pytest.mark.parametrize("plain", [LORA, PER_PART], ids=["alike", "per part"])
def test_experts_are_adapted_as_peft_does(plain: dict[str, Any], tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("mixtral")
    parts = adapted(folder, plain)
    save_adapters(parts, AdapterSettings.from_plain(plain), tmp_path)
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(whole(input_ids=token_ids()).logits, logits_of(parts))
    expected = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(**LORA["settings"]))
    own = {path for part in parts for path in adapted_modules(part)}
    assert len(own) == sum(isinstance(each, BaseTunerLayer) for each in expected.modules())


def test_parts_have_files_of_their_own_and_load_again(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama")
    settings = AdapterSettings.from_plain(PER_PART)
    parts = adapted(folder, PER_PART)
    paths = save_adapters(parts, settings, tmp_path)
    assert {path.name for path in paths} == {
        "bottom.safetensors",
        "trunk.safetensors",
        "top.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    whole = load_file(tmp_path / "adapter_model.safetensors")
    single = [load_file(tmp_path / f"{name}.safetensors") for name in ("bottom", "trunk", "top")]
    assert sum(len(each) for each in single) == len(whole)
    assert all(".layers.2." in name or ".layers.3." in name for name in single[1])
    fresh = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True)
    add_adapters(fresh, settings)
    load_adapters(fresh, tmp_path)
    assert torch.equal(logits_of(fresh), logits_of(parts))
    other = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True)
    add_adapters(other, AdapterSettings.from_plain(LORA))
    with pytest.raises(ValueError, match=r"the adapter tensor .*layers\.2.* has shape \(2, 64\); trunk needs shape \(4, 64\)"):
        load_adapters(other, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no adapter_model.safetensors"):
        load_adapters(other, tmp_path / "absent")


def test_adapters_that_fail_in_the_middle_leave_the_old_ones(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = adapted(tiny_checkpoint("llama"), LORA)
    settings = AdapterSettings.from_plain(LORA)
    save_adapters(parts, settings, tmp_path / "adapters")
    before = {path.name: path.read_bytes() for path in (tmp_path / "adapters").iterdir()}
    for parameter in (parameter for part in parts for parameter in part.parameters() if parameter.requires_grad):
        torch.nn.init.zeros_(parameter)

    def is_full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    # The last file: all others are written by then.
    monkeypatch.setattr(LoraConfig, "save_pretrained", is_full)
    with pytest.raises(OSError, match="No space left"):
        save_adapters(parts, settings, tmp_path / "adapters")
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapters").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapters"]


def test_only_adapters_require_gradients_and_every_part_gets_some(tiny_checkpoint: Callable[..., Path]) -> None:
    bottom, trunk, top = adapted(tiny_checkpoint("llama"), LORA)
    assert all(
        ("lora_" in name) == each.requires_grad for part in (bottom, trunk, top) for name, each in part.named_parameters()
    )
    ComposedCausalLM(bottom, trunk, top).train()(token_ids(), labels=token_ids()).loss.backward()
    for part in (bottom, trunk, top):
        gradients = [each.grad for name, each in part.named_parameters() if "lora_B" in name]
        assert gradients and all(each is not None and each.abs().sum() > 0 for each in gradients)


def test_adapters_of_half_precision_weights_are_float32(tiny_checkpoint: Callable[..., Path]) -> None:
    parts = adapted(tiny_checkpoint("llama"), LORA, dtype=torch.bfloat16)
    dtypes = {(each.requires_grad, each.dtype) for part in parts for each in part.parameters()}
    assert dtypes == {(False, torch.bfloat16), (True, torch.float32)}
    assert logits_of(parts).dtype == torch.bfloat16


def test_what_is_trained_beside_adapters_keeps_the_dtype_of_the_weights(tiny_checkpoint: Callable[..., Path]) -> None:
    """As with PEFT: the modules beside it compute in that."""
    plain = {**LORA, "settings": {**LORA["settings"], "modules_to_save": ["norm"]}}
    parts = adapted(tiny_checkpoint("llama"), plain, dtype=torch.bfloat16)
    kept = [each for part in parts for name, each in part.named_parameters() if "modules_to_save" in name]
    assert kept and {each.dtype for each in kept} == {torch.bfloat16}
    assert logits_of(parts).dtype == torch.bfloat16


def test_a_module_that_one_part_has_is_adapted_there(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("llama", tie_word_embeddings=False)
    parts = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True)
    added = add_adapters(parts, AdapterSettings.from_plain({"method": "lora", "settings": {"target_modules": ["lm_head"]}}))
    assert list(added) == ["top"]


def test_what_cannot_be_adapted(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2", tie_word_embeddings=True)

    def fails(plain: dict[str, Any], message: str, cut: tuple[int, int] = (2, 4)) -> None:
        parts = ModelFactory.create_split_models(None, folder, *cut, low_memory=True)
        with pytest.raises(ValueError, match=message):
            add_adapters(parts, AdapterSettings.from_plain(plain))

    fails({"method": "lora", "settings": {"target_modules": ["lm_head"]}}, "lm_head is tied to another part's weights")
    fails(
        {"method": "lora", "settings": {"modules_to_save": ["lm_head"]}},
        r"lm_head is tied .*leave it out of settings.modules_to_save",
    )
    fails(
        {"method": "lora", "settings": {"target_modules": ["q_proj", "absent"]}},
        r"name 'absent', which no part with adapters has",
    )
    fails({"method": "lora", "settings": {"r": "eight"}}, "adapters cannot be put into bottom")
    fails({"method": "lora", "settings": {"inference_mode": True}}, "leave nothing to be trained in bottom")
    fails({"method": "lora", "settings": {"target_modules": ["absent"]}}, r"\['absent'\], which no part has")
    fails(LORA, r"trunk holds no weights to put adapters beside; set parts.trunk=false", cut=(3, 3))


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"method": "lora", "settings": {"layer_replication": [[0, 2]]}}, "the layers of a cut are fixed"),
        ({"method": "lorra"}, r"^method is 'lorra'; use one of .*lora"),
        ({"method": "prompt_tuning"}, r"^method is 'prompt_tuning'; use one of"),
        ({"method": "adalora"}, r"^method is 'adalora'; use one of"),
        ({"method": "vera"}, r"^method is 'vera'; use one of"),
        ({"method": "lora", "settings": "all-linear"}, r"^settings is 'all-linear'; give names with values"),
        ({"method": "lora", "settings": {"init_lora_weights": "pissa_niter_4"}}, "cannot be repeated when adapters are read"),
        ({"method": "lora", "settings": {"rank": 4}}, r"the settings of method=lora cannot be used: .*rank"),
        ({"method": "lora", "rank": 4}, "^rank is not known; there are method, settings, learning_rate, parts"),
        ({"method": "lora", "parts": {"middle": {}}}, "^parts names 'middle'"),
        ({"method": "lora", "parts": {"top": 4}}, r"^parts.top is 4; give settings"),
        ({"method": "lora", "parts": dict.fromkeys(("bottom", "trunk", "top"), False)}, "leaves bottom, trunk and top without"),
    ],
)
def test_bad_settings(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterSettings.from_plain(plain)


# PEFT warns of them, too, whether or not they are to be merged.
@pytest.mark.filterwarnings("ignore:.*(merging LoRA weights won't be possible|cannot merge the BEFT adapter)")
@pytest.mark.parametrize(
    "plain",
    [
        {"method": "lora", "settings": {"lora_bias": True, "target_modules": ["q_proj"]}},
        {"method": "lora", "settings": {"alora_invocation_tokens": [3], "target_modules": ["q_proj"]}},
        {"method": "beft", "settings": {"target_modules": ["q_proj"]}},
        {"method": "lily", "settings": {"target_modules": ["q_proj"]}},
    ],
)
def test_what_cannot_be_merged_is_told(plain: dict[str, Any], tiny_checkpoint: Callable[..., Path]) -> None:
    """The layers of this model have no bias that one of an adapter could be added to."""
    bottom, _, _ = adapted(tiny_checkpoint("llama"), plain)
    with pytest.raises(ValueError, match=r"^these adapters cannot be merged into the weights \(.*adapters=keep$"):
        merge_adapters(bottom)


def test_a_setting_that_one_adapter_cannot_have_twice(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    plain = {**LORA, "parts": {"top": {"lora_dropout": 0.5}}}
    parts = adapted(tiny_checkpoint("llama"), plain)
    with pytest.raises(ValueError, match=r"^parts gives lora_dropout the values"):
        save_adapters(parts, AdapterSettings.from_plain(plain), tmp_path)


def test_layers_are_numbered_as_in_the_unsplit_model(tiny_checkpoint: Callable[..., Path]) -> None:
    plain = {"method": "lora", "settings": {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [1, 5]}}
    plain["settings"]["rank_pattern"] = {r"layers\.5\..*": 3}  # type: ignore[index]
    parts = adapted(tiny_checkpoint("llama"), plain)
    ranks = {path: layer.r["default"] for part in parts for path, layer in adapted_modules(part).items()}
    assert ranks == {"model.layers.1.self_attn.q_proj": 2, "model.layers.5.self_attn.q_proj": 3}
