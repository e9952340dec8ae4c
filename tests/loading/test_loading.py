"""Loading reads what is needed and no more, refuses what does not fit, and leaves nothing changed behind."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from splitlearn.checkpoint import CheckpointError, CheckpointSource, Shard
from splitlearn.checkpoint.main_file import INDEX_FILE
from splitlearn.cut import PART_NAMES, CutError, DeviceMapError
from splitlearn.loading import ModelFactory, ModelRequest, save_parts
from splitlearn.memory import MemoryTracker
from splitlearn.model import ComposedCausalLM, SplitModel, UnsupportedModelError
from splitlearn.runs import Stamp
from tests.tiny_models import token_ids


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint("qwen2", tie_word_embeddings=True), tmp_path / "model")


@pytest.fixture
def no_weights_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Shard, name: str) -> torch.Tensor:
        pytest.fail(f"{name} was read before the input had been checked")

    monkeypatch.setattr("splitlearn.checkpoint.shard._SafetensorsShard.read", refuse)


@pytest.fixture
def transformers_bars() -> Iterator[None]:
    """transformers shows its bars, as it does for users."""
    transformers.utils.logging.enable_progress_bar()
    yield
    transformers.utils.logging.disable_progress_bar()


def create(folder: Path, first: object = 2, second: object = 4, model_type: str | None = None, **settings: object):  # type: ignore[no-untyped-def]
    return ModelFactory.create_split_models(model_type, folder, first, second, **{"low_memory": True, **settings})  # type: ignore[arg-type]


def rewrite_shard(folder: Path, tensor: str, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / CheckpointSource(folder).weight_map[tensor]
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def rewrite_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    change(index["weight_map"])
    (folder / INDEX_FILE).write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["bottom", "trunk", "top"])
def test_a_part_needs_only_its_own_shards(name: str, folder: Path) -> None:
    """With every other shard deleted the part still loads, and it reads exactly the tensors it holds."""
    opened = ModelRequest(folder, 2, 4).open()
    loader, spec = opened.loader, getattr(opened.plan, name)
    reading = loader.reading(spec)
    for file in set(loader.source.weight_map.values()) - reading.files:
        (folder / file).unlink()
    assert len(list(folder.glob("*.safetensors"))) == len(reading.files) < len(set(loader.source.weight_map.values()))
    read: dict[str, int] = {}
    part = loader.load(reading, read.__setitem__, ready={})
    assert sorted(read) == sorted(reading.sources.values())
    assert sum(read.values()) == part.weight_bytes


def test_a_tied_head_is_one_parameter_and_is_read_once(folder: Path) -> None:
    bottom, _, top = create(folder)
    assert top.model.lm_head.weight is bottom.model.model.embed_tokens.weight


def test_a_head_that_the_checkpoint_stores_differently_is_not_tied(folder: Path) -> None:
    def add_head(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = torch.randn_like(tensors["model.embed_tokens.weight"])

    rewrite_shard(folder, "model.embed_tokens.weight", add_head)
    rewrite_index(folder, lambda names: names.update({"lm_head.weight": names["model.embed_tokens.weight"]}))
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder)
    parts = create(folder)
    assert torch.equal(parts[2].model.lm_head.weight, whole.lm_head.weight)
    assert not torch.equal(parts[2].model.lm_head.weight, parts[0].model.model.embed_tokens.weight)


@pytest.mark.usefixtures("no_weights_read")
@pytest.mark.parametrize("low_memory", [True, False])
class TestRefusedBeforeWeightsAreRead:
    @pytest.mark.parametrize("cut", [(-1, 3), (2, 7), (4, 2), (True, 3), (1.0, 3), ("1", 3)])
    def test_no_cut(self, folder: Path, cut: tuple[object, object], low_memory: bool) -> None:
        with pytest.raises(CutError):
            create(folder, *cut, low_memory=low_memory)

    def test_another_model_type(self, folder: Path, low_memory: bool) -> None:
        with pytest.raises(UnsupportedModelError, match=r"model_type is 'gpt2', but .* is a 'qwen2' model"):
            create(folder, model_type="gpt2", low_memory=low_memory)

    def test_an_unknown_model_type(self, folder: Path, low_memory: bool) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen99"}))
        with pytest.raises(UnsupportedModelError, match="qwen99"):
            create(folder, low_memory=low_memory)

    def test_a_model_that_generates_no_text(self, tmp_path: Path, low_memory: bool) -> None:
        transformers.ViTConfig().save_pretrained(tmp_path)
        with pytest.raises(UnsupportedModelError, match="is a vit model, of which transformers has no causal LM"):
            create(tmp_path, low_memory=low_memory)

    def test_devices_that_are_not_there(self, folder: Path, low_memory: bool) -> None:
        absent = f"cuda:{torch.cuda.device_count()}"
        with pytest.raises(DeviceMapError, match=absent):
            create(folder, device=absent, low_memory=low_memory)
        with pytest.raises(DeviceMapError, match="device_map names 'head'"):
            create(folder, device_map={"head": "cpu"}, low_memory=low_memory)

    def test_a_missing_shard(self, folder: Path, low_memory: bool) -> None:
        file = CheckpointSource(folder).weight_map["model.layers.5.mlp.up_proj.weight"]
        (folder / file).unlink()
        with pytest.raises(FileNotFoundError, match=file):
            create(folder, low_memory=low_memory)

    def test_a_truncated_shard(self, folder: Path, low_memory: bool) -> None:
        path = folder / CheckpointSource(folder).weight_map["model.layers.5.mlp.up_proj.weight"]
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=path.name):
            create(folder, low_memory=low_memory)

    def test_a_missing_tensor(self, folder: Path, low_memory: bool) -> None:
        rewrite_index(folder, lambda names: names.pop("model.layers.3.mlp.up_proj.weight"))
        with pytest.raises(
            CheckpointError, match=r"lacks tensors that the model needs: model\.layers\.3\.mlp\.up_proj\.weight"
        ):
            create(folder, low_memory=low_memory)

    def test_an_unexpected_tensor(self, folder: Path, low_memory: bool) -> None:
        rewrite_index(folder, lambda names: names.update({"model.layers.3.mlp.spare.weight": next(iter(names.values()))}))
        with pytest.raises(CheckpointError, match=r"does not have: model\.layers\.3\.mlp\.spare\.weight"):
            create(folder, low_memory=low_memory)

    def test_an_index_that_names_an_absent_file(self, folder: Path, low_memory: bool) -> None:
        rewrite_index(folder, lambda names: names.update({"model.norm.weight": "absent.safetensors"}))
        with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
            create(folder, low_memory=low_memory)

    def test_more_layers_in_the_configuration(self, folder: Path, low_memory: bool) -> None:
        config = json.loads((folder / "config.json").read_text())
        changes = {"num_hidden_layers": 7, "layer_types": [*config["layer_types"], "full_attention"]}
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(CheckpointError, match=r"lacks .*layers\.6\."):
            create(folder, low_memory=low_memory)

    def test_a_tensor_of_another_shape(self, folder: Path, low_memory: bool) -> None:
        name = "model.layers.3.mlp.up_proj.weight"
        rewrite_shard(folder, name, lambda tensors: tensors.update({name: torch.ones(3, 5)}))
        with pytest.raises(CheckpointError, match=rf"{name} has shape \(3, 5\), but the model needs \(96, 64\)"):
            create(folder, low_memory=low_memory)

    def test_a_folder_that_is_no_model(self, tmp_path: Path, low_memory: bool) -> None:
        with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
            create(tmp_path, low_memory=low_memory)
        with pytest.raises(FileNotFoundError, match="does not exist"):
            create(tmp_path / "absent", low_memory=low_memory)

    def test_auto_save_without_a_place(self, folder: Path, low_memory: bool) -> None:
        with pytest.raises(ValueError, match="storage_path"):
            create(folder, auto_save=True, low_memory=low_memory)


@pytest.mark.parametrize("expert", [0, 2, 3])
def test_a_missing_expert_is_an_error(expert: int, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Experts are merged while loading, yet that one of them is missing is found by the names alone."""
    folder = shutil.copytree(tiny_checkpoint("mixtral", tie_word_embeddings=False), tmp_path / "model")
    names = CheckpointSource(folder).weight_map
    absent = next(name for name in names if ".layers.3." in name and f".experts.{expert}.w1." in name)
    rewrite_index(folder, lambda names: names.pop(absent))
    with pytest.raises(CheckpointError, match=f"lacks tensors that the model needs: {absent}$"):
        create(folder)


@pytest.mark.usefixtures("transformers_bars")
def test_only_its_own_words_are_printed_when_verbose(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    create(folder, verbose=True)
    out, err = capfd.readouterr()
    lines = out.splitlines()
    headings = [line for line in lines if line.startswith("Loading component")]
    assert headings == [
        "Loading component: bottom (layers 0-1 + embedding)",
        "Loading component: trunk (layers 2-3)",
        "Loading component: top (layers 4-5 + final norm + head)",
    ]
    assert [line for line in lines if line.startswith("Memory:")] == [
        f"Memory: {name} loaded" for name in ("bottom", "trunk", "top")
    ]
    assert sum(line.startswith("  RAM: ") for line in lines) == sum(line.startswith("  GPU: ") for line in lines) == 3
    assert err.count("Opening shards: 100%") == err.count("Loading parameters from shards: 100%") == 3
    assert "Loading weights" not in err


@pytest.mark.usefixtures("transformers_bars")
@pytest.mark.parametrize("low_memory", [True, False])
def test_nothing_is_printed_otherwise(folder: Path, low_memory: bool, capfd: pytest.CaptureFixture[str]) -> None:
    create(folder, low_memory=low_memory)
    assert capfd.readouterr() == ("", "")


def test_a_snapshot_is_taken_after_each_part(folder: Path) -> None:
    tracker = MemoryTracker()
    create(folder, tracker=tracker)
    assert [each.label for each in tracker.snapshots] == ["before loading", "bottom loaded", "trunk loaded", "top loaded"]


@pytest.mark.usefixtures("transformers_bars")
@pytest.mark.parametrize("low_memory", [True, False])
def test_no_global_state_is_changed(folder: Path, low_memory: bool) -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.random.get_rng_state().tolist(),
            dict(os.environ),
            transformers.utils.logging.get_verbosity(),
            transformers.utils.logging.is_progress_bar_enabled(),
        )

    before = state()
    create(folder, low_memory=low_memory, dtype=torch.bfloat16)
    assert state() == before


def test_training_mapped_weights_leaves_the_checkpoint_alone(folder: Path) -> None:
    def digest() -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    before = digest()
    split = ComposedCausalLM(*create(folder))
    optimizer = torch.optim.SGD(split.parameters(), lr=0.1)
    split(token_ids(), labels=token_ids()).loss.backward()
    optimizer.step()
    assert digest() == before


def test_several_models_in_a_row_leave_nothing_behind(folder: Path) -> None:
    """Once its parts are dropped, nothing of a model is left: no tensor and no open file."""

    def tensors() -> int:
        gc.collect()
        # Everything that Python knows of is asked for its type, and some of it warns that it is deprecated.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    def mapped() -> int:
        maps = Path("/proc/self/maps")
        return maps.read_text().count(str(folder)) if maps.exists() else 0

    for low_memory in (True, False):
        create(folder, low_memory=low_memory)
        before = tensors()
        for _ in range(3):
            parts = create(folder, low_memory=low_memory)
            ComposedCausalLM(*parts)(token_ids())
            del parts
        assert tensors() == before
        assert mapped() == 0


def test_parts_are_saved_together_or_not_at_all(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of two runs in one folder would look like one model."""
    parts = create(folder)
    saved = tmp_path / "parts"
    assert save_parts(parts, saved) == [saved / f"{name}.pt" for name in PART_NAMES]
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    save = SplitModel.save

    def fails_at_the_top(part: SplitModel, path: Path, stamp: Stamp | None = None) -> None:
        if part.spec.name == "top":
            raise KeyboardInterrupt
        save(part, path, stamp)

    with torch.no_grad():
        for part in parts:
            for parameter in part.parameters():
                parameter.zero_()
    monkeypatch.setattr(SplitModel, "save", fails_at_the_top)
    with pytest.raises(KeyboardInterrupt):
        save_parts(parts, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "parts"]


def test_a_read_only_checkpoint_loads(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        create(folder)
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("low_memory", [True, False])
def test_of_a_tensor_in_two_shards_the_index_says_which_counts(
    low_memory: bool, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_checkpoint("llama", tie_word_embeddings=False), tmp_path / "model")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    first, *_, last = sorted(set(index.values()))
    for own, other in ((first, last), (last, first)):
        name = next(name for name, file in index.items() if file == own)
        expected, others = load_file(folder / own)[name], load_file(folder / other)
        save_file({**others, name: torch.full_like(expected, 7.0)}, folder / other, {"format": "pt"})
        parts = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=low_memory)
        tensors = {name: tensor for part in parts for name, tensor in part.named_tensors().items()}
        assert torch.equal(tensors[name], expected)
