"""A request opens a model once, and opening some parts touches no other part's shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from splitlearn.checkpoint.main_file import INDEX_FILE
from splitlearn.cut import PART_NAMES, CutError, DeviceMapError, Placement
from splitlearn.loading import ModelFactory, ModelRequest, opening, request
from splitlearn.model import find_ties
from tests.hub_server import serving_this_process
from tests.tiny_models import tiny_model, token_ids


def write_one_shard_a_part(folder: Path, head: str = "other") -> Path:
    """Save a tied model whose head is stored too, with ``other`` values or ``equal`` ones, in one file for each part."""
    model = tiny_model("llama", tie_word_embeddings=head == "equal")
    model.config.tie_word_embeddings, model.config.dtype = True, torch.float32
    model.config.save_pretrained(folder)
    tensors: dict[str, dict[str, torch.Tensor]] = {name: {} for name in PART_NAMES}
    for name, tensor in model.state_dict().items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0 if "embed" in name else 5
        tensors[PART_NAMES[layer // 2]][name] = tensor.clone()
    for part, own in tensors.items():
        save_file(own, folder / f"{part}.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: f"{part}.safetensors" for part, own in tensors.items() for name in own}}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("part", PART_NAMES)
def test_a_part_is_loaded_where_the_shards_of_the_others_are_absent(part: str, tmp_path: Path) -> None:
    folder = write_one_shard_a_part(tmp_path)
    expected = ModelFactory.load_parts(folder, 2, 4)[part].named_tensors()
    for other in PART_NAMES:
        if other != part:
            (folder / f"{other}.safetensors").unlink()
    loaded = ModelRequest(folder, 2, 4).open([part]).load()
    assert list(loaded.parts) == [part]
    tensors = loaded[part].named_tensors()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    assert [Path(file).name for file in loaded.receipt.parts[0].shards] == [f"{part}.safetensors"]


def test_of_shards_that_cannot_be_read_only_the_own_ones_matter(tmp_path: Path) -> None:
    folder = write_one_shard_a_part(tmp_path)
    for other in ("bottom", "top"):
        (folder / f"{other}.safetensors").write_bytes(b"damaged")
    assert ModelFactory.load_parts(folder, 2, 4, ["trunk"])["trunk"].num_parameters
    with pytest.raises(ValueError, match=r"bottom\.safetensors"):
        ModelFactory.load_parts(folder, 2, 4, ["bottom"])


def test_without_a_dtype_the_first_shard_is_missed_with_a_remedy(tmp_path: Path) -> None:
    folder = write_one_shard_a_part(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name != "dtype"}))
    (folder / "bottom.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json names no dtype.*set dtype to load"):
        ModelFactory.load_parts(folder, 2, 4, ["trunk"])
    assert ModelFactory.load_parts(folder, 2, 4, ["trunk"], dtype=torch.float32)["trunk"].num_parameters


@pytest.mark.parametrize("part", ["bottom", "top"])
def test_from_a_hub_no_other_end_of_a_tie_is_downloaded(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_one_shard_a_part(tmp_path / "model")
    with serving_this_process({"someone/tiny": folder}, tmp_path, monkeypatch) as hub:
        ModelFactory.load_parts("someone/tiny", 2, 4, [part])
        fetched = {file for file, _, _ in hub.ranges} | set(hub.downloads)
    assert {file for file in fetched if file.endswith(".safetensors")} == {f"{part}.safetensors"}


def test_from_a_hub_ends_of_a_tie_are_downloaded_when_parts_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What refuses a run comes before anything large is downloaded."""
    folder = write_one_shard_a_part(tmp_path / "model")
    with serving_this_process({"someone/tiny": folder}, tmp_path, monkeypatch):
        opened = ModelRequest("someone/tiny", 2, 4).open()
        opened.check()
        assert opened.blueprint.unsettled_ties == {"lm_head.weight"}
        assert opened.source.downloaded_bytes == 0
        opened.load()
        assert not opened.blueprint.unsettled_ties and not opened.blueprint.ties
        assert opened.source.downloaded_bytes > 0


@pytest.mark.parametrize("head", ["other", "equal"])
def test_parts_that_were_loaded_apart_are_tied_if_their_values_are_equal(head: str, tmp_path: Path) -> None:
    folder = write_one_shard_a_part(tmp_path / "model", head)
    parts = [ModelFactory.load_parts(folder, 2, 4, [name])[name] for name in PART_NAMES]
    assert parts[0].blueprint.unsettled_ties == {"lm_head.weight"}
    assert len(find_ties(parts)) == (head == "equal")
    for part in parts:
        part.save(tmp_path / "parts" / f"{part.spec.name}.pt")
    again = ModelFactory.load_saved_parts(tmp_path / "parts").eval()
    embedding, output = again.bottom.model.model.embed_tokens.weight, again.top.model.lm_head.weight
    assert (embedding is output) == (head == "equal")
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert torch.equal(again(token_ids()).logits, whole(token_ids(), use_cache=False).logits)


def test_a_tie_between_parts_that_are_loaded_together_is_settled(tmp_path: Path) -> None:
    folder = write_one_shard_a_part(tmp_path)
    ends = ModelFactory.load_parts(folder, 2, 4, ["bottom", "top"])
    assert not ends["top"].blueprint.unsettled_ties and not ends["top"].blueprint.ties


class Calls:
    """Counts the calls of what reads a checkpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: dict[str, int] = {}
        for module, name in ((request, "CheckpointSource"), (request, "read_config_of"), (opening, "match_tensors")):
            self._count(monkeypatch, module, name)
        self._count(monkeypatch, opening, "draw_blueprint")

    def _count(self, monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
        original: Callable[..., object] = getattr(module, name)
        self.counts[name] = 0

        def counted(*args: object, **kwargs: object) -> object:
            self.counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)


def test_two_dtypes_are_drawn_from_one_reading(tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    wanted = ModelRequest(tiny_checkpoint("llama"), dtype=torch.bfloat16, in_float32=["trunk"])
    opened = wanted.open().revise(split_point_1=2, split_point_2=4)
    opened.check()
    loaded = opened.load(trained=["trunk"])
    assert [part.dtype for part in loaded.parts.values()] == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert calls.counts == {"CheckpointSource": 1, "read_config_of": 1, "match_tensors": 1, "draw_blueprint": 2}


def test_a_request_says_what_it_cannot_do(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("llama")
    with pytest.raises(ValueError, match=r"in_float32 is \['middle'\]; name one or more of bottom, trunk, top"):
        ModelRequest(folder, in_float32=["middle"])
    with pytest.raises(ValueError, match=r"^quantization is 'int3'; use int8"):
        ModelRequest(folder, quantization="int3")
    with pytest.raises(ValueError, match=r"^unexpected_tensors is 'keep'; use one of auto"):
        ModelRequest(folder, unexpected_tensors="keep")
    with pytest.raises(ValueError, match=r"parts is \[\]; name one"):
        ModelRequest(folder).open([])
    with pytest.raises(CutError, match="split_point_1 is 7, but the model has 6 decoder layers"):
        ModelRequest(folder, 7, 7).open()
    opened = ModelRequest(folder).open()
    with pytest.raises(CutError, match="split_point_1 is not set; say where"):
        opened.check()
    with pytest.raises(CutError, match="split_point_2 is 9, but the model has 6"):
        opened.revise(split_point_1=1, split_point_2=9)
    with pytest.raises(ValueError, match="revision says which checkpoint is opened; make a ModelRequest with revision='main'"):
        opened.revise(revision="main")


def test_devices_of_parts_that_are_not_loaded_are_not_looked_for(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("llama")
    loaded = ModelFactory.load_parts(folder, 2, 4, ["trunk"], device_map={"bottom": "cuda:99", "top": "cuda:99"})
    assert loaded["trunk"].device == torch.device("cpu")
    with pytest.raises(DeviceMapError, match="cuda:99"):
        ModelFactory.load_parts(folder, 2, 4, ["trunk", "top"], device_map={"top": "cuda:99"})


def test_a_placement_says_which_parts_are_here(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("llama")
    server = {"parts": ["trunk"], "devices": "cuda:99", "address": "example.org:9000"}
    parties: dict[str, dict[str, Any]] = {"client": {"parts": ["bottom", "top"]}, "server": server}
    placement = Placement.resolve(parties, data="client", labels="client", num_gpus=0)
    assert list(ModelFactory.load_parts(folder, 2, 4, placement.parts_here(), placement=placement).parts) == ["bottom", "top"]
    with pytest.raises(ValueError, match="device_map is 'cpu', but the placement says where parts go; leave device_map out"):
        ModelFactory.load_parts(folder, 2, 4, ["top"], device_map="cpu", placement=placement)
    with pytest.raises(ValueError, match="trunk is to be loaded here, but 'server' holds it elsewhere"):
        ModelFactory.load_parts(folder, 2, 4, placement=placement)
