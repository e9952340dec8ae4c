from collections.abc import Callable
from pathlib import Path

import pytest

from splitlearn.cut import ParamMapper
from splitlearn.loading import ModelRequest
from tests.tiny_models import CONFIGS


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.experts.5.w1.weight", 3),
        ("transformer.h.11.attn.c_attn.weight", 11),
        ("h.0.ln_1.bias", 0),
        ("model.decoder.layers.7.fc1.weight", 7),
        ("model.embed_tokens.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_layer_numbers(name: str, layer: int | None) -> None:
    assert ParamMapper.get_layer_number(name, "any") == layer


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("transformer.word_embeddings_layernorm.weight", "embedding"),
        ("model.decoder.project_in.weight", "embedding"),
        ("model.per_layer_projection_norm.weight", "embedding"),
        ("model.embed_tokens_extend.audio_embed.encoder.encoders.23.conv.glu.b1", "embedding"),
        ("model.decoder.project_out.weight", "final norm"),
        ("model.embedding_norm.weight", "final norm"),
        ("transformer.ln_f.bias", "final norm"),
        ("rwkv.ln_out.weight", "final norm"),
        ("model.hc_head.hc_scale", "final norm"),
        ("embed_out.weight", "head"),
        ("lm_head.dense.weight", "head"),
        ("decoder.bias", "head"),
    ],
)
def test_tensors_outside_the_layers(name: str, kind: str) -> None:
    found = {
        "embedding": ParamMapper.is_embedding(name, "any"),
        "final norm": ParamMapper.is_final_norm(name, "any"),
        "head": ParamMapper.is_lm_head(name, "any"),
    }
    assert [each for each, is_it in found.items() if is_it] == [kind]
    assert ParamMapper.get_layer_number(name) is None


@pytest.mark.parametrize("model_type", CONFIGS)
def test_names_alone_agree_with_the_model_for_every_architecture(model_type: str, tiny_checkpoint: Callable[..., Path]) -> None:
    """The rules on names must put each tensor where matching against the real model puts it."""
    folder = tiny_checkpoint(model_type, tie_word_embeddings=False)
    opened = ModelRequest(folder, 2, 4).open()
    for match in opened.loader.matches:
        layer = ParamMapper.get_layer_number(match.source, model_type)
        kinds = {
            "layer": layer is not None,
            "embedding": ParamMapper.is_embedding(match.source, model_type),
            "final norm": ParamMapper.is_final_norm(match.source, model_type),
            "head": ParamMapper.is_lm_head(match.source, model_type),
        }
        assert sum(kinds.values()) == 1, (match.source, kinds)
        assert layer == opened.loader.blueprint.layer_of(match.targets[0])
        if layer is None:
            assert kinds["embedding"] == opened.loader.blueprint.belongs_to(match.targets[0], opened.plan.bottom), match.source
