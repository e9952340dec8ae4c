from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from benchmarks.sparse_checkpoint import write_sparse_checkpoint
from splitlearn.app import compose, plan
from splitlearn.checkpoint.shard import Shard, open_shard
from splitlearn.cut import PART_NAMES, Placement
from splitlearn.embedded import resolve_model
from splitlearn.loading import ModelFactory, ModelRequest
from splitlearn.model.quantized import stored_bytes
from splitlearn.planning import CutCost, cost_of
from tests.hub_server import COMMIT, HubServer, serving_this_process

SEVENTY_TWO_B: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
CUT = ("split.point_1=2", "split.point_2=4")


@pytest.fixture(autouse=True)
def _no_weights_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A plan that reads weights fails its test; what loads on purpose asks for it back."""

    def refuse(self: Shard, name: str) -> torch.Tensor:
        raise AssertionError(f"{name} was read")

    for kind in Shard.__subclasses__():
        monkeypatch.setattr(kind, "read", refuse)


def plan_of(model: str | Path, *overrides: str) -> CutCost:
    return plan(compose("model=pretrained", f"model.name_or_path={model}", *overrides, config_name="plan"))


@pytest.mark.parametrize(("model_type", "dtype"), [("llama", None), ("gpt2", None), ("qwen2", "bfloat16"), ("mixtral", None)])
def test_it_foretells_what_loading_does(
    model_type: str, dtype: str | None, tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint(model_type)
    cost = plan_of(folder, *CUT, f"model.dtype={dtype or 'null'}")
    monkeypatch.undo()
    wanted = getattr(torch, dtype) if dtype else None
    parts = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True, dtype=wanted)
    seen: set[torch.nn.Parameter] = set()
    for part, each in zip(parts, cost.parts, strict=True):
        receipt = part.receipt
        assert receipt is not None
        own = set(part.parameters()) - seen
        seen |= own
        assert each.part == receipt.part and each.holds == receipt.holds
        assert each.num_parameters == sum(parameter.numel() for parameter in own)
        assert each.weight_bytes == sum(parameter.nbytes for parameter in own)
        assert sum(each.stored_bytes.values()) == receipt.needed_bytes
        assert [str(folder / file) for file in each.shards] == list(receipt.shards)
        assert bool(each.needs["load"].mapped_bytes) == (dtype is None)
        assert each.needs["full"].own_bytes > 4 * each.weight_bytes


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantized_weights_are_reckoned_with(quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_model("embedded:qwen2_tiny")
    plain, cost = (
        plan_of(folder, "split.point_1=2", "split.point_2=6", f"model.quantization={each}") for each in ("null", quantization)
    )
    monkeypatch.undo()
    parts = ModelFactory.create_split_models(None, folder, 2, 6, low_memory=True, quantization=quantization)
    seen: set[torch.nn.Parameter] = set()
    for part, before, each in zip(parts, plain.parts, cost.parts, strict=True):
        own = [parameter for parameter in part.parameters() if parameter not in seen]
        seen.update(own)
        # Scales count for more in matrices as small as these.
        assert each.weight_bytes == pytest.approx(sum(map(stored_bytes, own)), rel=0.05)
        assert each.weight_bytes < before.weight_bytes
        need = each.needs["load"]
        assert need.own_bytes > 0 and need.own_bytes + need.mapped_bytes == pytest.approx(each.weight_bytes, abs=1)
        assert each.needs["full"] == before.needs["full"], "what is trained is not quantized"


def test_a_tied_head_counts_once_on_one_device_and_twice_on_two(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint("qwen2", tie_word_embeddings=True)
    together = plan_of(folder, *CUT)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    apart = plan_of(folder, *CUT, 'device_map={top: "cuda:0"}')
    embedding = 99 * 64
    assert apart.parts[2].num_parameters - together.parts[2].num_parameters == embedding
    assert apart.parts[2].needs["load"].own_bytes == apart.parts[2].weight_bytes, "GPU memory is never mapped"


def test_training_needs_weights_gradients_and_both_averages_of_adamw(tiny_checkpoint: Callable[..., Path]) -> None:
    opened = ModelRequest(str(tiny_checkpoint("llama")), split_point_1=2, split_point_2=4).open()
    cost = cost_of(opened, Placement.one_party(num_gpus=0), num_rows=1, num_tokens=8, lora_rank=4, with_activations=False)
    for part in cost.parts:
        assert part.needs["full"].own_bytes == 4 * part.weight_bytes


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_torch_files_are_planned_too(suffix: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", max_shard_size="1GB")
    if suffix == "bin":
        shard = open_shard(folder / "model.safetensors")
        state = {name: torch.zeros(shard.shape(name), dtype=shard.dtype(name)) for name in shard.names}
        torch.save(state, tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        folder = tmp_path
    cost = plan_of(folder, *CUT)
    assert all(set(each.stored_bytes) == {"float32"} for each in cost.parts)


def test_72_billion_parameters(tmp_path: Path) -> None:
    config = Qwen2Config(tie_word_embeddings=False, dtype=torch.bfloat16, **SEVENTY_TWO_B)
    size = write_sparse_checkpoint(config, tmp_path)
    cost = plan_of(tmp_path, "split.point_1=4", "split.point_2=76", "must_fit=null")
    assert sum(each.num_parameters for each in cost.parts) == size // 2 == 72_706_203_648
    assert sum(sum(each.stored_bytes.values()) for each in cost.parts) == size
    assert cost.smashed_bytes == 8 * 128 * 8192 * 2
    assert all(need.is_known for each in cost.parts for need in each.needs.values())


def test_the_traffic_is_what_the_parts_hand_on(tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_checkpoint("llama")
    cost = plan_of(folder, *CUT, "rows=3", "tokens=11")
    monkeypatch.undo()
    bottom = ModelFactory.load_parts(folder, 2, 4, ["bottom"])["bottom"]
    assert bottom(torch.zeros(3, 11, dtype=torch.long)).nbytes == cost.smashed_bytes


@pytest.fixture
def hub(tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folders = {"someone/sharded": tiny_checkpoint("llama"), "someone/single": tiny_checkpoint("gpt2", max_shard_size="1GB")}
    with serving_this_process(folders, tmp_path, monkeypatch) as running:
        yield running


@pytest.mark.parametrize("name", ["someone/sharded", "someone/single"])
def test_from_a_hub_only_headers_come(name: str, hub: HubServer) -> None:
    cost = plan_of(name, *CUT)
    assert cost.commit == COMMIT
    assert not [file for file in hub.downloads if file.endswith(".safetensors")]
    assert all(first == 0 and last < 128 * 2**10 for _, first, last in hub.ranges)
    files = {file for file, _, _ in hub.ranges}
    assert files == {file for each in cost.parts for file in each.shards} and len(hub.ranges) == len(files)
    for each in cost.parts:
        assert each.download_bytes >= sum(each.stored_bytes.values())
    again = plan_of(name, *CUT)
    assert len(hub.ranges) == len(files), "headers are kept"
    assert again == cost
    assert [each.part for each in cost.parts] == list(PART_NAMES)
