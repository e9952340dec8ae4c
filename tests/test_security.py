"""Reading a stranger's model runs nothing that came with it. Torch files with code: tests/checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jinja2.exceptions import SecurityError
from transformers import AutoTokenizer

from splitlearn.data import mark_conversation, read_tokenizer
from splitlearn.embedded import resolve_model
from splitlearn.loading import ModelFactory, read_config

CODE = "import pathlib\npathlib.Path({place!r}).touch()\nfrom transformers import PreTrainedConfig as Config, {base} as Class"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A file that is there if code of the model was run."""
    return tmp_path / "pwned"


def bring_code(folder: Path, place: Path, **changes: object) -> None:
    """Put Python files beside a model, and have its configuration name them."""
    (folder / "own.py").write_text(CODE.format(place=str(place), base="LlamaForCausalLM"))
    classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Class"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": classes, **changes}))


def test_code_of_a_model_that_transformers_does_not_know(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(tiny_checkpoint("llama"), tmp_path)
    bring_code(folder, place, model_type="of_its_own")
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    with pytest.raises(ValueError, match=r"of_its_own|custom code"):
        read_config(folder)
    assert not place.exists()


def test_code_beside_a_model_that_transformers_knows(tiny_checkpoint: Callable[..., Path], tmp_path: Path, place: Path) -> None:
    folder = copy_of(tiny_checkpoint("llama"), tmp_path)
    bring_code(folder, place)
    assert type(ModelFactory.load_parts(folder, 2, 4, ["trunk"])["trunk"].model).__module__.startswith("transformers.")
    assert not place.exists()


def test_code_of_a_tokenizer(tmp_path: Path, place: Path) -> None:
    folder = tmp_path / "model"
    AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny")).save_pretrained(folder)
    (folder / "own.py").write_text(CODE.format(place=str(place), base="PreTrainedTokenizerFast"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": [None, "own.Class"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    read_tokenizer(str(folder))
    assert not place.exists()


def test_chat_templates_run_in_a_sandbox() -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny"))
    tokenizer.chat_template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
    with pytest.raises(ValueError, match="the chat template refuses") as refusal:
        mark_conversation(tokenizer, turns)
    assert isinstance(refusal.value.__cause__, SecurityError)


def copy_of(checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
