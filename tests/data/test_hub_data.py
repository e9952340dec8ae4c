"""Data sets of a hub, served by a local server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from tests.hub_server import HubServer

PROGRAM = """
import sys
from splitlearn.data.documents import document_layout
from splitlearn.data.reading import SourceRows
from splitlearn.data.sources import Source
rows = SourceRows(Source(sys.argv[1]), lambda *_: document_layout("text"), streaming=sys.argv[2] == "stream")
print([row["text"] for row in (rows if sys.argv[2] == "stream" else rows.read())])
print(rows.digest(), file=sys.stderr)
"""


def read(server: HubServer, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # huggingface_hub and datasets read their settings when they are imported.
    settings = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    Dataset.from_dict({"text": ["one", "two", "three"], "id": [1, 2, 3]}).to_parquet(folder / "train.parquet")
    return folder


def test_a_data_set_of_a_hub_is_read_and_streamed(folder: Path, tmp_path: Path) -> None:
    with HubServer({"someone/texts": folder}).running() as server:
        for how in ("all", "stream"):
            done = read(server, tmp_path / how, "hub:someone/texts", how)
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip() == "['one', 'two', 'three']"
        done = read(server, tmp_path / "absent", "hub:someone/else", "all")
        assert "FileNotFoundError: no data set hub:someone/else" in done.stderr
