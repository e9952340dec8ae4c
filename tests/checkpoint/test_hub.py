"""Checkpoints on a hub: just the needed files are downloaded, and what cannot be had is told in one sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from splitlearn.checkpoint import CheckpointSource
from splitlearn.checkpoint.main_file import INDEX_FILE
from splitlearn.loading import ModelRequest
from tests.hub_server import HubServer

LOAD_TRUNK = """
from splitlearn import ModelFactory
print(ModelFactory.load_parts("someone/tiny", 2, 4, ["trunk"])["trunk"].num_parameters)
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
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("llama", tie_word_embeddings=False)


@pytest.fixture
def hub(folder: Path) -> Iterator[HubServer]:
    with HubServer({"someone/tiny": folder}).running() as running:
        yield running


def run(script: str, *arguments: str, cache: Path, endpoint: str, **settings: str) -> str:
    """Run a script in a fresh process, since huggingface_hub reads its settings when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **settings}
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_part_downloads_only_its_tensors(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    opened = ModelRequest(folder, 2, 4).open()
    reading = opened.loader.reading(opened.plan.trunk)
    assert reading.files < set(opened.source.weight_map.values())
    assert int(run(LOAD_TRUNK, cache=tmp_path, endpoint=hub.endpoint)) > 0
    small = {"config.json", "generation_config.json", INDEX_FILE}
    whole = set(hub.downloads) - small
    in_ranges = {file for file, _, _ in hub.ranges}
    assert small < set(hub.downloads) and whole | in_ranges == reading.files and not whole & in_ranges
    assert len(hub.downloads) == len(set(hub.downloads)), "each file once"
    assert {name for name, file in opened.source.weight_map.items() if file in whole} <= set(reading.sources.values())


def test_a_second_time_comes_from_the_cache(hub: HubServer, tmp_path: Path) -> None:
    assert run(LOAD_ALL, "someone/tiny", cache=tmp_path, endpoint=hub.endpoint) == "3"
    hub.downloads.clear()
    assert run(LOAD_ALL, "someone/tiny", cache=tmp_path, endpoint=hub.endpoint) == "3"
    assert hub.downloads == []


def test_a_repository_that_is_not_there(hub: HubServer, tmp_path: Path) -> None:
    printed = run(LOAD_ALL, "someone/absent", cache=tmp_path, endpoint=hub.endpoint)
    assert printed.startswith("FileNotFoundError no model configuration for someone/absent:")
    assert "\n" not in printed


def test_offline_with_a_full_an_incomplete_and_an_empty_cache(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    assert run(LOAD_ALL, "someone/tiny", cache=tmp_path / "full", endpoint=hub.endpoint) == "3"
    run(LOAD_TRUNK, cache=tmp_path / "incomplete", endpoint=hub.endpoint)
    asked = sum(hub.requests.values())
    outcomes = [
        run(LOAD_ALL, "someone/tiny", cache=tmp_path / cache, endpoint=hub.endpoint, HF_HUB_OFFLINE="1")
        for cache in ("full", "incomplete", "empty")
    ]
    assert outcomes[0] == "3"
    assert re.match(
        r"UnreachableFileError someone/tiny .* its model-\d+-of-\d+.safetensors is not in the hub's cache", outcomes[1]
    )
    assert outcomes[2].startswith("FileNotFoundError no model configuration for someone/tiny")
    assert sum(hub.requests.values()) == asked


def test_server_errors_are_tried_again_three_times(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    file = CheckpointSource(folder).weight_map["model.layers.3.mlp.up_proj.weight"]
    hub.failures[file] = [503, 500]
    assert run(LOAD_ALL, "someone/tiny", cache=tmp_path / "lucky", endpoint=hub.endpoint) == "3"
    assert hub.requests[file] == 3
    hub.failures[file] = [503] * 9
    printed = run(LOAD_ALL, "someone/tiny", cache=tmp_path / "unlucky", endpoint=hub.endpoint)
    assert printed.startswith(f"FileNotFoundError the hub failed to send {file} of someone/tiny after 3 retries (the index")
    assert hub.requests[file] == 3 + 4


def test_what_will_not_change_is_not_tried_again(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    file = CheckpointSource(folder).weight_map["model.layers.3.mlp.up_proj.weight"]
    hub.failures[file] = [403] * 9
    printed = run(LOAD_ALL, "someone/tiny", cache=tmp_path, endpoint=hub.endpoint)
    assert printed.startswith("FileNotFoundError the hub does not give out someone/tiny without leave")
    assert hub.requests[file] == 1


def test_a_gated_model_needs_its_token_which_is_never_shown(folder: Path, tmp_path: Path) -> None:
    with HubServer({"someone/tiny": folder}, token="hf_secret").running() as gated:
        refused = run(LOAD_ALL, "someone/tiny", cache=tmp_path, endpoint=gated.endpoint, HF_TOKEN="hf_wrong")
        assert refused.startswith("FileNotFoundError") and "hf_wrong" not in refused
        assert run(LOAD_ALL, "someone/tiny", cache=tmp_path, endpoint=gated.endpoint, HF_TOKEN="hf_secret") == "3"


def test_a_single_file_in_the_cache_is_found_offline(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    single = tiny_checkpoint("llama", tie_word_embeddings=False, max_shard_size="1GB")
    with HubServer({"someone/tiny": single}).running() as hub:
        assert run(LOAD_ALL, "someone/tiny", cache=tmp_path, endpoint=hub.endpoint) == "3"
        assert run(LOAD_ALL, "someone/tiny", cache=tmp_path, endpoint=hub.endpoint, HF_HUB_OFFLINE="1") == "3"
