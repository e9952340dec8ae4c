"""Receipts say what was read; one part alone reads its own; parts that are not of one model are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from splitlearn.checkpoint import CheckpointSource, prefetch
from splitlearn.checkpoint.shard import open_shard
from splitlearn.loading import ModelFactory, part_loader, save_parts
from splitlearn.model import ComposedCausalLM, SplitModel
from tests.tiny_models import token_ids


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("llama", tie_word_embeddings=False)


def stored_bytes(folder: Path, wanted: Callable[[str], bool]) -> int:
    names = CheckpointSource(folder).weight_map
    return sum(open_shard(folder / file).num_bytes(name) for name, file in names.items() if wanted(name))


def test_a_receipt_says_what_each_part_read(folder: Path) -> None:
    receipt = ModelFactory.load_parts(folder, 2, 4).receipt
    assert [each.part for each in receipt.parts] == ["bottom", "trunk", "top"]
    for each in receipt.parts:
        assert each.needed_bytes == each.read_bytes == each.mapped_bytes == each.weight_bytes > 0
        assert (each.shared_bytes, each.casts, each.num_converted, each.device) == (0, {}, 0, "cpu")
        assert all(Path(shard).parent == folder for shard in each.shards)
    assert sum(each.needed_bytes for each in receipt.parts) == stored_bytes(folder, lambda name: True)
    assert json.loads(json.dumps(receipt.to_dict()))["parts"][1]["num_tensors"] == receipt.parts[1].num_tensors


def test_one_part_alone_opens_its_own_shards_only(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "model")
    loaded = ModelFactory.load_parts(copy, 2, 4, ["trunk"])
    (receipt,) = loaded.receipt.parts
    needed = stored_bytes(copy, lambda name: ".layers.2." in name or ".layers.3." in name)
    assert receipt.read_bytes == receipt.needed_bytes == needed
    for path in copy.glob("*.safetensors"):
        if str(path) not in receipt.shards:
            path.unlink()
    assert len(list(copy.glob("*.safetensors"))) == len(receipt.shards)
    again = ModelFactory.load_parts(copy, 2, 4, ["trunk"])
    hidden = torch.randn(2, 5, 64)
    assert torch.equal(again["trunk"](hidden), loaded["trunk"](hidden))
    assert set(again.parts) == {"trunk"}


@pytest.mark.parametrize("parts", [[], ["middle"], "trunk", ["trunk", "head"]])
def test_parts_that_are_none(folder: Path, parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"parts is "):
        ModelFactory.load_parts(folder, 2, 4, parts)


def test_trained_parts_are_read_into_memory_of_their_own(folder: Path) -> None:
    frozen, trained = (ModelFactory.load_parts(folder, 2, 4, trained=names) for names in ((), ("trunk",)))
    assert [each.mapped_bytes > 0 for each in trained.receipt.parts] == [True, False, True]
    assert [each.read_bytes for each in trained.receipt.parts] == [each.read_bytes for each in frozen.receipt.parts]
    for one, other in zip(frozen.parts.values(), trained.parts.values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "opt"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_is_read_or_cast_by_us_is_what_transformers_makes_of_it(
    model_type: str, dtype: torch.dtype, tiny_checkpoint: Callable[..., Path]
) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_checkpoint(model_type, tie_word_embeddings=False)
    whole = dict(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).named_parameters())
    loaded = ModelFactory.load_parts(folder, 2, 4, dtype=dtype, trained=("bottom", "trunk", "top"))
    tensors = {name: tensor for part in loaded.parts.values() for name, tensor in part.named_tensors().items()}
    assert whole.keys() <= tensors.keys()
    for name, parameter in whole.items():
        assert parameter.dtype == tensors[name].dtype and torch.equal(parameter, tensors[name]), name
    casts = [dict(each.casts) for each in loaded.receipt.parts]
    assert all(casts) == (dtype != torch.float32)
    assert any(each.num_converted for each in loaded.receipt.parts) == (model_type == "mixtral")


def test_modules_that_stay_in_float32_do(tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", ["down_proj"])
    folder = tiny_checkpoint("llama", tie_word_embeddings=False)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).model.layers[3].mlp
    trunk = ModelFactory.load_parts(folder, 2, 4, ["trunk"], dtype=torch.bfloat16)["trunk"].model.model.layers[1].mlp
    assert whole.down_proj.weight.dtype == trunk.down_proj.weight.dtype == torch.float32
    assert torch.equal(whole.down_proj.weight, trunk.down_proj.weight)
    assert whole.up_proj.weight.dtype == trunk.up_proj.weight.dtype == torch.bfloat16


def test_a_tied_head_is_shared_and_said_to_be(tiny_checkpoint: Callable[..., Path]) -> None:
    loaded = ModelFactory.load_parts(tiny_checkpoint("qwen2", tie_word_embeddings=True), 2, 4)
    top = loaded.receipt.parts[2]
    assert top.tied == ("model.embed_tokens.weight",)
    assert top.shared_bytes == loaded["bottom"].model.model.embed_tokens.weight.nbytes
    assert top.read_bytes == top.needed_bytes - top.shared_bytes
    alone = ModelFactory.load_parts(tiny_checkpoint("qwen2", tie_word_embeddings=True), 2, 4, ["top"]).receipt.parts[0]
    assert alone.read_bytes == alone.needed_bytes == top.needed_bytes


def test_the_table_shows_every_part(folder: Path) -> None:
    receipt = ModelFactory.load_parts(folder, 2, 4, dtype=torch.bfloat16).receipt
    console = Console(file=StringIO(), width=200)
    console.print(receipt.table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("cut at 2 / 4, bfloat16", "bottom", "trunk", "top", "float32 -> bfloat16"):
        assert expected in text


def test_mapped_weights_on_a_network_are_read_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [SimpleNamespace(mountpoint="/", fstype="nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    ahead = []

    def note(path: Path, ranges: list[tuple[int, int]]) -> int:
        ahead.append(prefetch(path, ranges))
        return ahead[-1]

    monkeypatch.setattr(part_loader, "prefetch", note)
    receipt = ModelFactory.load_parts(folder, 2, 4, trained=("top",)).receipt
    assert sum(ahead) == sum(each.needed_bytes for each in receipt.parts[:2])


def test_saved_parts_go_together_again(folder: Path, tmp_path: Path) -> None:
    split = ComposedCausalLM(*ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True))
    save_parts(split.parts, tmp_path)
    again = ModelFactory.load_saved_parts(tmp_path)
    assert torch.equal(again(token_ids()).logits, split(token_ids()).logits)
    assert {str(part.blueprint.origin) for part in again.parts} == {str(folder.resolve())}
    # A loaded part and a part from the checkpoint are of one model too.
    ComposedCausalLM(again.bottom, split.trunk, again.top)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"dtype": torch.bfloat16, "below": torch.float16}, "dtypes are float16 and bfloat16"),
        ({"copied": True}, "they are from .* and .*copy"),
        ({"rope": 5.0}, "rope_parameters is .* and .*5.0"),
    ],
)
def test_parts_of_two_models_are_refused_with_the_difference(
    other: dict[str, object], difference: str, folder: Path, tmp_path: Path
) -> None:
    below: Any = other.get("below")
    save_parts(ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True, dtype=below), tmp_path / "parts")
    source = folder
    if "dtype" not in other:
        source = shutil.copytree(folder, tmp_path / "copy")
    if "rope" in other:
        config = json.loads((source / "config.json").read_text())
        config["rope_parameters"]["rope_theta"] = other["rope"]
        (source / "config.json").write_text(json.dumps(config))
    ModelFactory.load_parts(source, 2, 4, ["trunk"], dtype=other.get("dtype"))["trunk"].save(tmp_path / "parts" / "trunk.pt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"bottom and trunk are not of one model: .*{difference}"):
        ModelFactory.load_saved_parts(tmp_path / "parts")


def test_a_part_saved_before_origins_were_noted_still_loads(folder: Path, tmp_path: Path) -> None:
    trunk = ModelFactory.load_parts(folder, 2, 4, ["trunk"])["trunk"]
    trunk.save(tmp_path / "trunk.pt")
    content = torch.load(tmp_path / "trunk.pt", weights_only=True)
    del content["description"]["origin"], content["description"]["dtype"]
    torch.save(content, tmp_path / "trunk.pt")
    assert SplitModel.load(tmp_path / "trunk.pt").blueprint.origin is None


def test_a_receipt_can_be_read_in_80_columns(folder: Path) -> None:
    receipt = ModelFactory.load_parts(folder, 2, 4).receipt
    printed = StringIO()
    Console(file=printed, width=80).print(receipt.table())
    told = printed.getvalue()
    assert "…" not in told and max(map(len, told.splitlines())) <= 80
    for heading in ("bottom", "trunk", "top", "needed, GiB", "peak anonymous, GiB", "seconds"):
        assert heading in told
