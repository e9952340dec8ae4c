import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from splitlearn.checkpoint import CheckpointError, ShardLoader, prepare_checkpoint
from tests.tiny_models import tiny_model


def test_a_single_file_becomes_shards_with_the_same_bits(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = tiny_checkpoint("llama", max_shard_size="1GB", tie_word_embeddings=False)
    (tmp_path / "out").mkdir()
    prepare_checkpoint(source, tmp_path / "out", max_shard_size="100KB")
    index = ShardLoader.load_index_json(tmp_path / "out")
    assert len(set(index["weight_map"].values())) > 3
    before = load_file(source / "model.safetensors")
    after: dict[str, torch.Tensor] = {}
    for file in set(index["weight_map"].values()):
        after |= load_file(tmp_path / "out" / file)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads((source / "config.json").read_text())
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def write_gguf(path: Path, model: torch.nn.Module, has_tokenizer: bool = True) -> None:
    """Write a tiny llama as a GGUF file with a two-token-type vocabulary, the way llama.cpp lays it out."""
    config: Any = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if has_tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["t", "1", *(f"t{index}" for index in range(1, config.vocab_size - 1))])
        writer.add_token_types([1] * config.vocab_size)
        writer.add_token_merges(["t 1", "t1 1"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    state = {name: tensor.numpy().astype(np.float32) for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    writer.add_tensor("output.weight", state["lm_head.weight"])
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            writer.add_tensor(f"blk.{layer}.{ours}.weight", state[f"model.layers.{layer}.{theirs}.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_becomes_shards(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=False, num_key_value_heads=4)
    write_gguf(tmp_path / "tiny.gguf", model)
    (tmp_path / "out").mkdir()
    prepare_checkpoint(tmp_path / "tiny.gguf", tmp_path / "out", max_shard_size="100KB")
    assert ShardLoader.is_sharded_model(tmp_path / "out")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name in ("model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight", "lm_head.weight"):
        assert torch.equal(read[name], model.state_dict()[name]), name


def test_a_gguf_without_a_tokenizer_that_can_be_read_is_refused_before_its_weights_are(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), has_tokenizer=False)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot make a tokenizer of what .*tiny\.gguf holds"):
        prepare_checkpoint(tmp_path / "tiny.gguf", tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_sources_that_cannot_be_prepared(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        prepare_checkpoint(tmp_path / "absent", out)
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors and 0 GGUF files"):
        prepare_checkpoint(out, out)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"neither a \.gguf nor a \.safetensors"):
        prepare_checkpoint(tmp_path / "notes.txt", out)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        prepare_checkpoint(tmp_path / "model.safetensors", out)
    (out / "something").touch()
    with pytest.raises(CheckpointError, match="must be an empty folder"):
        prepare_checkpoint(tmp_path / "model.safetensors", out)
