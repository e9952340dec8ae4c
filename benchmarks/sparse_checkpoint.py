"""Checkpoints of any size that take no room: true index and headers, and holes where the weights would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

SHARD_BYTES = 4 * 10**9


def write_sparse_checkpoint(config: Any, folder: Path, shard_bytes: int = SHARD_BYTES) -> int:
    """Write the checkpoint of a configuration, in bf16, with zeros that are not stored; return the bytes of its weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    config.save_pretrained(folder)
    groups: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in model.named_parameters():
        if groups[-1] and sum(each.nbytes for each in groups[-1].values()) + tensor.nbytes > shard_bytes:
            groups.append({})
        groups[-1][name] = tensor
    weight_map = {}
    for number, tensors in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        header: dict[str, Any] = {}
        position = 0
        for name, tensor in tensors.items():
            header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [position, position + tensor.nbytes]}
            position += tensor.nbytes
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as opened:
            opened.write(len(text).to_bytes(8, "little") + text)
            opened.truncate(8 + len(text) + position)
        weight_map.update(dict.fromkeys(tensors, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sum(each.nbytes for tensors in groups for each in tensors.values())
