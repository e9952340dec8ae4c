"""Downloading just the tensors that are needed, from a server that does what servers on the way may do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

from splitlearn.checkpoint import CheckpointError, CheckpointSource, hub_ranges
from splitlearn.checkpoint import hub_download as hub_module
from splitlearn.checkpoint.errors import AbsentFileError, UnreachableFileError
from splitlearn.checkpoint.header import read_header
from splitlearn.checkpoint.hub_ranges import RemoteFile
from splitlearn.checkpoint.shard import Shard, open_shard
from splitlearn.loading import ModelFactory
from tests.hub_server import COMMIT, HubServer, serving_this_process

FILE = "model.safetensors"
WANTED = ["model.layers.2.mlp.up_proj.weight", "model.layers.4.self_attn.q_proj.weight"]


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint in one file."""
    made = tiny_checkpoint("llama", tie_word_embeddings=False, max_shard_size="1GB")
    return Path(shutil.copytree(made, tmp_path / "served"))


@pytest.fixture
def waits_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are noted instead of waited for."""
    waits: list[float] = []

    class Clock:
        sleep = staticmethod(waits.append)

        def __getattr__(self, name: str) -> object:
            return getattr(time, name)

    for module in (huggingface_hub.utils._http, hub_module, hub_ranges):
        monkeypatch.setattr(module, "time", Clock())
    return waits


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits_s: list[float]) -> Iterator[HubServer]:
    with serving_this_process({"someone/tiny": folder}, tmp_path, monkeypatch) as running:
        yield running


def open_wanted(names: list[str] | None = None) -> Shard:
    return CheckpointSource("someone/tiny").open_shards({FILE}, names or WANTED)[FILE]


def check(shard: Shard, folder: Path, names: list[str]) -> None:
    whole = open_shard(folder / FILE)
    assert all(torch.equal(shard.read(name), whole.read(name)) for name in names)


def test_only_the_header_and_the_tensors_are_sent(hub: HubServer, folder: Path) -> None:
    header = read_header(folder / FILE)
    shard = open_wanted()
    check(shard, folder, WANTED)
    first, *others = hub.ranges
    assert first[1] == 0 and first[2] < 128 * 2**10
    assert sum(last - first + 1 for _, first, last in others) == sum(header.tensors[name].num_bytes for name in WANTED)
    assert FILE not in hub.downloads
    with pytest.raises(CheckpointError, match=r"model.norm.weight has not been downloaded"):
        shard.read("model.norm.weight")


def test_what_is_there_is_not_sent_again(hub: HubServer, folder: Path) -> None:
    open_wanted()
    before = len(hub.ranges)
    check(open_wanted(), folder, WANTED)
    assert len(hub.ranges) == before
    open_wanted([*WANTED, "model.norm.weight"])
    assert len(hub.ranges) == before + 1, "the new tensor alone"


def test_kept_tensors_need_no_hub(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_wanted()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_module.commit_of.cache_clear()
    asked = sum(hub.requests.values())
    check(open_wanted(), folder, WANTED)
    with pytest.raises(UnreachableFileError, match="the hub cannot be reached"):
        open_wanted(["model.norm.weight"])
    assert sum(hub.requests.values()) == asked


@pytest.mark.parametrize("damage", ["deleted", "cut short"])
def test_a_kept_file_that_is_gone_is_fetched_again(hub: HubServer, folder: Path, damage: str) -> None:
    path = open_wanted().path
    if damage == "deleted":
        path.unlink()
    else:
        os.truncate(path, 5000)
    check(open_wanted(), folder, WANTED)
    check(open_wanted([*WANTED, "model.norm.weight"]), folder, ["model.norm.weight"])


def test_a_part_of_a_model_in_one_file(hub: HubServer, folder: Path) -> None:
    loaded = ModelFactory.load_parts("someone/tiny", 2, 4, ["trunk"])
    local = ModelFactory.load_parts(folder, 2, 4, ["trunk"])
    assert loaded.receipt.commit == COMMIT
    part = loaded.receipt.parts[0]
    assert part.needed_bytes <= part.downloaded_bytes <= 1.01 * part.needed_bytes
    for name, tensor in local["trunk"].state_dict().items():
        assert torch.equal(tensor, loaded["trunk"].state_dict()[name])


def test_a_whole_file_is_fetched_when_all_of_it_is_needed_and_checked(hub: HubServer, folder: Path) -> None:
    ModelFactory.create_split_models(None, "someone/tiny", 2, 4, low_memory=True)
    assert hub.downloads.count(FILE) == 1
    hub.ranges.clear()
    check(open_wanted(), folder, WANTED)
    assert not hub.ranges, "it is in the cache now"


def test_a_whole_file_that_arrives_damaged_is_refused_and_fetched_again(hub: HubServer) -> None:
    hub.spoiled.add(FILE)
    source = CheckpointSource("someone/tiny")
    with pytest.raises(CheckpointError, match=f"{FILE} of someone/tiny arrived damaged .* try again"):
        source.fetch(FILE)
    hub.spoiled.clear()
    source.fetch(FILE)
    assert hub.downloads.count(FILE) == 2


def test_a_broken_connection_is_taken_up_where_it_broke(hub: HubServer, folder: Path) -> None:
    CheckpointSource("someone/tiny").header(FILE)
    hub.cuts[FILE] = [100, 0, 0, 5000]
    check(open_wanted(), folder, WANTED)
    header = read_header(folder / FILE)
    starts = [first for _, first, _ in hub.ranges]
    assert header.tensors[WANTED[0]].start + 100 in starts or header.tensors[WANTED[1]].start + 100 in starts


def test_a_connection_that_never_yields_anything_is_given_up(hub: HubServer, waits_s: list[float]) -> None:
    hub.cuts[FILE] = [0] * 99
    with pytest.raises(UnreachableFileError, match="the hub cannot be reached"):
        open_wanted()
    assert hub.requests[FILE] == 1 + hub_ranges.MAX_RETRIES
    assert len(waits_s) == hub_ranges.MAX_RETRIES


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_failures_are_tried_again(hub: HubServer, folder: Path, status: int) -> None:
    hub.failures[FILE] = [status, status]
    check(open_wanted(), folder, WANTED)
    hub.failures[FILE] = [status] * 99
    with pytest.raises(FileNotFoundError, match=f"the hub failed to send {FILE} of someone/tiny after 3 retries"):
        open_wanted(["model.norm.weight"])


def test_a_busy_hub_is_given_the_time_it_asks_for(hub: HubServer, folder: Path, waits_s: list[float]) -> None:
    hub.failures[FILE], hub.retry_after_s = [429], 7
    check(open_wanted(), folder, WANTED)
    assert any(wait_s >= 7 for wait_s in waits_s)


@pytest.mark.parametrize(
    ("status", "message"), [(401, "without leave"), (403, "without leave"), (404, "cannot be had|no file")]
)
def test_refusals_are_not_tried_again(hub: HubServer, status: int, message: str) -> None:
    CheckpointSource("someone/tiny").header(FILE)
    before = hub.requests[FILE]
    hub.failures[FILE] = [status] * 9
    with pytest.raises(FileNotFoundError, match=message):
        open_wanted(WANTED[:1])
    assert hub.requests[FILE] == before + 1


def test_a_server_without_ranges_sends_the_whole_file(hub: HubServer, folder: Path) -> None:
    hub.ignores_ranges = True
    check(open_wanted(), folder, WANTED)
    assert not hub.ranges
    assert FILE in hub.downloads


def test_a_wrong_range_is_refused(hub: HubServer) -> None:
    CheckpointSource("someone/tiny").header(FILE)
    hub.range_shift = 8
    with pytest.raises(CheckpointError, match=r"was asked for bytes \d+-\d+ and sent 'bytes"):
        open_wanted()


def test_a_file_that_changes_meanwhile_is_refused(hub: HubServer) -> None:
    source = CheckpointSource("someone/tiny")
    source.header(FILE)
    hub.etags = ['"other"'] * 9
    with pytest.raises(CheckpointError, match="changed while it was read; load it again"):
        source.open_shards({FILE}, WANTED)
    assert hub.conditions, "the server was told which file is meant"


def answer(etag: str) -> Any:
    """Return a server's answer to the question for the first of ten bytes."""
    return SimpleNamespace(status_code=206, headers={"ETag": etag, "Content-Range": "bytes 0-0/10"})


def test_a_server_that_ignores_conditions_is_held_to_its_tag() -> None:
    remote = RemoteFile("http://hub/file")
    assert remote._check(answer('"one"'), 0, 1) == 1
    assert remote._check(answer('"one"'), 0, 1) == 1
    with pytest.raises(CheckpointError, match="changed while it was read; load it again"):
        remote._check(answer('"other"'), 0, 1)


def test_a_weak_tag_is_no_condition() -> None:
    remote = RemoteFile("http://hub/file")
    remote._check(answer('W/"one"'), 0, 1)
    assert remote._etag is None
    assert remote._check(answer('W/"other"'), 0, 1) == 1


def test_the_commit_is_settled_once(hub: HubServer, folder: Path) -> None:
    source = CheckpointSource("someone/tiny")
    assert source.commit == COMMIT
    hub.commit = "f" * 40
    assert CheckpointSource("someone/tiny").commit == COMMIT, "a branch that moves does not mix two models"
    with pytest.raises(FileNotFoundError, match="cannot be had from the hub"):
        source.header(FILE)


def test_a_revision_is_honoured(hub: HubServer) -> None:
    assert CheckpointSource("someone/tiny", COMMIT).commit == COMMIT
    with pytest.raises(FileNotFoundError, match=r"no file|cannot be had"):
        _ = CheckpointSource("someone/tiny", "absent").commit


def test_the_storage_is_never_sent_the_token(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    check(open_wanted(), folder, WANTED)
    CheckpointSource("someone/tiny").fetch(FILE)
    assert hub.ranges and hub.downloads and not hub.storage_tokens


def test_a_model_without_weights_says_so(hub: HubServer, folder: Path) -> None:
    (folder / FILE).rename(folder / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="holds none of"):
        _ = CheckpointSource("someone/tiny").index
    with pytest.raises(AbsentFileError):
        CheckpointSource("someone/tiny").header(FILE)


STOPPABLE = """
import sys
from splitlearn.checkpoint import CheckpointSource
print("begun", flush=True)
CheckpointSource("someone/tiny").open_shards({sys.argv[1]}, set(sys.argv[2:]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_arrived_before_an_interruption_is_kept(hub: HubServer, folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    names = [name for name in read_header(folder / FILE).tensors if ".layers." in name]
    needed = sum(read_header(folder / FILE).tensors[name].num_bytes for name in names)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", STOPPABLE, FILE, *names]
    # Slow enough that it is still under way on a busy machine when it is stopped.
    hub.pause_s = 0.05
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    deadline_s = time.monotonic() + 30
    while len(hub.ranges) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(how)
    began_s = time.monotonic()
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert time.monotonic() - began_s < 10
    hub.pause_s = 0.0
    hub.ranges.clear()
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert hub.sent_bytes < needed or how == signal.SIGKILL
    assert hub.sent_bytes <= 1.01 * needed
