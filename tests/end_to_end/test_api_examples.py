"""The loading library as its users call it, on models that a hub serves under well-known names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.tiny_models import write_tiny_checkpoint

pytestmark = pytest.mark.end_to_end

FIRST = """
from splitlearn import ModelFactory

bottom, trunk, top = ModelFactory.create_split_models(
    model_type='qwen2',
    model_name_or_path='Qwen/Qwen2-7B',
    split_point_1=8,
    split_point_2=24,
    device='cpu',
    {settings}
)

import torch
input_ids = torch.randint(0, 99, (1, 10))
hidden = bottom(input_ids)
hidden = trunk(hidden)
output = top(hidden)
assert output.logits.shape == (1, 10, 99)
"""
SAVED = """
from splitlearn import SplitModel

bottom = SplitModel.load('./my_models/qwen2/bottom.pt')
trunk = SplitModel.load('./my_models/qwen2/trunk.pt')
top = SplitModel.load('./my_models/qwen2/top.pt')
assert torch.equal(top(trunk(bottom(input_ids))).logits, output.logits)
"""
TRACKED = """
from splitlearn.utils import MemoryTracker

tracker = MemoryTracker()
tracker.snapshot("开始")
from splitlearn import ModelFactory
bottom, trunk, top = ModelFactory.create_split_models(
    model_type='qwen2', model_name_or_path='Qwen/Qwen2-7B', split_point_1=8, split_point_2=24, device='cpu', low_memory=True
)
tracker.snapshot("加载完成")
tracker.summary()
"""
SHARDS = """
from splitlearn.utils import ShardLoader

is_sharded = ShardLoader.is_sharded_model('Qwen/Qwen2-7B')
print(f"Is sharded: {is_sharded}")
index = ShardLoader.load_index_json('Qwen/Qwen2-7B')
required_shards = ShardLoader.get_required_shards_for_component(
    index_json=index,
    component='bottom',
    layer_range=(0, 8),
    model_type='qwen2',
    include_embedding=True,
)
shard_paths = ShardLoader.download_shards_if_needed(model_path='Qwen/Qwen2-7B', shard_files=required_shards)
print(f"{len(shard_paths)} of {len(set(index['weight_map'].values()))} shards")
assert all(path.is_file() for path in shard_paths.values())
"""
SEVERAL = """
from splitlearn import ModelFactory

models_config = [
    ('qwen2', 'Qwen/Qwen2-7B', 8, 24),
    ('qwen2', 'Qwen/Qwen2-1.5B', 4, 12),
    ('llama', 'meta-llama/Llama-2-7b', 8, 24),
]
all_models = []
for model_type, model_path, sp1, sp2 in models_config:
    bottom, trunk, top = ModelFactory.create_split_models(
        model_type=model_type,
        model_name_or_path=model_path,
        split_point_1=sp1,
        split_point_2=sp2,
        device='cpu',
        low_memory=True,
        verbose=False,
    )
    all_models.append((bottom, trunk, top))
print(f"Total models loaded: {len(all_models)}")
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    layers = {"Qwen/Qwen2-7B": ("qwen2", 28), "Qwen/Qwen2-1.5B": ("qwen2", 28), "meta-llama/Llama-2-7b": ("llama", 32)}
    folders = {}
    for repo_id, (model_type, num_layers) in layers.items():
        folder = tmp_path_factory.mktemp("repository")
        folders[repo_id] = write_tiny_checkpoint(folder, model_type, "300KB", num_hidden_layers=num_layers)
    with HubServer(folders).running() as running:
        yield running


def run(script: str, hub: HubServer, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "settings",
    [
        "low_memory=False,",
        "low_memory=True,",
        "device_map='auto', low_memory=True,",
        "device_map={'bottom': 'cpu', 'trunk': 'cpu', 'top': 'cpu'}, low_memory=True,",
    ],
)
def test_load_and_run(settings: str, hub: HubServer, tmp_path: Path) -> None:
    run(FIRST.format(settings=settings), hub, tmp_path)


def test_verbose_shows_each_step(hub: HubServer, tmp_path: Path) -> None:
    done = run(FIRST.format(settings="low_memory=True, verbose=True,"), hub, tmp_path)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["Loading component: bottom (layers 0-7 + embedding)", "Memory: bottom loaded"]
    assert lines[2].startswith("  RAM: ") and lines[3].startswith("  GPU: ")
    for bar in ("Downloading shards", "Loading parameters from shards"):
        assert done.stderr.count(f"{bar}:   0%") == 3 and f"{bar}: 100%" in done.stderr


def test_save_and_load_again(hub: HubServer, tmp_path: Path) -> None:
    script = FIRST.format(settings="low_memory=True, storage_path='./my_models/qwen2', auto_save=True,") + SAVED
    run(script, hub, tmp_path)


def test_a_memory_tracker_of_ones_own(hub: HubServer, tmp_path: Path) -> None:
    lines = run(TRACKED, hub, tmp_path).stdout.splitlines()
    assert lines[0] == "=== Memory Usage Summary ==="
    assert lines[5].startswith("  开始") and lines[6].startswith("  加载完成")


def test_shards_by_hand(hub: HubServer, tmp_path: Path) -> None:
    hub.downloads.clear()
    lines = run(SHARDS, hub, tmp_path).stdout.splitlines()
    assert lines[0] == "Is sharded: True"
    needed, all_shards = (int(word) for word in lines[1].split() if word.isdigit())
    assert 0 < needed < all_shards
    assert sum(file.endswith(".safetensors") for file in hub.downloads) == needed


def test_several_models(hub: HubServer, tmp_path: Path) -> None:
    assert run(SEVERAL, hub, tmp_path).stdout.strip() == "Total models loaded: 3"
