"""Checkpoints on a hub: just the needed files are downloaded, and what cannot be had is told in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from splitlearn.checkpoint import CheckpointSource
from splitlearn.checkpoint.source import INDEX_FILE
from splitlearn.model.blueprint import plan_cut, read_config
from splitlearn.model.part_loading import open_checkpoint
from tests.hub_server import HubServer

LOAD_TRUNK = """
from splitlearn.checkpoint import CheckpointSource
from splitlearn.model.blueprint import plan_cut, read_config
from splitlearn.model.part_loading import open_checkpoint
config = read_config("someone/tiny")
loader = open_checkpoint(config, CheckpointSource("someone/tiny"))
part = loader.load(loader.reading(plan_cut(config, 2, 4).trunk), lambda name, size: None, ready={})
print(part.num_parameters)
"""
LOAD_ALL = """
import sys
from splitlearn import ModelFactory
try:
    print(len(ModelFactory.create_split_models(None, sys.argv[1], 2, 4, low_memory=True)))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def hub(tiny_checkpoint: Callable[..., Path]) -> Iterator[HubServer]:
    # The configuration names the dtype, so no shard is opened to find it.
    with HubServer(tiny_checkpoint("llama", tie_word_embeddings=False), "someone/tiny").running() as running:
        yield running


def run(script: str, *arguments: str, cache: Path, endpoint: str) -> str:
    """Run a script in a fresh process, since huggingface_hub reads its settings when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_part_downloads_only_its_shards(hub: HubServer, tmp_path: Path) -> None:
    source = CheckpointSource(hub.folder)
    config = read_config(hub.folder)
    needed = open_checkpoint(config, source).reading(plan_cut(config, 2, 4).trunk).files
    assert needed < set(source.weight_map.values())
    assert int(run(LOAD_TRUNK, cache=tmp_path, endpoint=hub.endpoint)) > 0
    assert set(hub.downloads) == {"config.json", INDEX_FILE, *needed}
    assert len(hub.downloads) == len(set(hub.downloads)), "each file once"


def test_a_second_time_comes_from_the_cache(hub: HubServer, tmp_path: Path) -> None:
    assert run(LOAD_ALL, "someone/tiny", cache=tmp_path, endpoint=hub.endpoint) == "3"
    hub.downloads.clear()
    assert run(LOAD_ALL, "someone/tiny", cache=tmp_path, endpoint=hub.endpoint) == "3"
    assert hub.downloads == []


def test_a_repository_that_is_not_there(hub: HubServer, tmp_path: Path) -> None:
    printed = run(LOAD_ALL, "someone/absent", cache=tmp_path, endpoint=hub.endpoint)
    assert printed.startswith("FileNotFoundError no model configuration for someone/absent:")
    assert "\n" not in printed
