"""The embedded default model: small, Qwen2-shaped, random, and stored as a real sharded checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from splitlearn.embedded.cache import build_once
from splitlearn.embedded.python_docs import read_python_docs
from splitlearn.silence import silent_transformers

_END_OF_TEXT = "<|endoftext|>"
_MAX_SHARD_SIZE = "2MB"
_CONFIG: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def _train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_CONFIG["vocab_size"],
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_END_OF_TEXT, eos_token=_END_OF_TEXT, pad_token=_END_OF_TEXT
    )


def _write(folder: Path) -> None:
    _train_tokenizer(read_python_docs()).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(**_CONFIG))
    with silent_transformers():
        model.save_pretrained(folder, max_shard_size=_MAX_SHARD_SIZE)


def qwen2_tiny() -> Path:
    """Return the folder of the embedded model: 8 layers, about 2 million random weights, a tokenizer of 2,048 sub-words.

    It is made on first use (a few seconds) and cached; the tokenizer is trained on the Python documentation.
    """
    content = repr((sorted(_CONFIG.items()), _MAX_SHARD_SIZE, read_python_docs()))
    return build_once(f"qwen2-tiny-{hashlib.sha256(content.encode()).hexdigest()[:12]}", _write)
