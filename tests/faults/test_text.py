"""Files of text that are damaged: rows of JSON, tokenizers, chat templates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError

from splitlearn.app.prompts import ask
from splitlearn.data import PromptFormat, read_tokenizer
from splitlearn.data.documents import read_documents
from splitlearn.data.file_rows import rows_of
from splitlearn.data.messages import read_messages, read_tools
from splitlearn.data.tokenizer import TEMPLATE_FILE
from splitlearn.embedded import resolve_model


@pytest.mark.parametrize("text", ['{"text":' + "[" * 100_000, '{"text": ' + "9" * 5000 + "}", "garbage", "[1, 2]"])
def test_lines_that_are_no_rows(tmp_path: Path, text: str) -> None:
    """Fault: a line is deep JSON, a number without end, or no object. Promise: one sentence with the file and the line."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "first"}\n\n' + text)
    with pytest.raises(ValueError, match=r"rows\.jsonl line 3 "):
        list(rows_of(path))


def test_an_array_of_rows(tmp_path: Path) -> None:
    """Fault: a `.json` file is one array in one line. Promise: its rows are read; a bad one is told by its number."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": f"paragraph {number}"} for number in range(3)]))
    assert list(read_documents(str(path))["text"]) == ["paragraph 0", "paragraph 1", "paragraph 2"]
    path.write_text('[{"text": "a"}, 3]')
    with pytest.raises(ValueError, match=r"rows\.json row 2 is 3 and no object"):
        list(rows_of(path))
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"rows\.json line 1 cannot be read as JSON"):
        list(rows_of(path))


def test_json_within_messages() -> None:
    """Fault: a conversation's calls or tools are deep JSON. Promise: a sentence that names the field."""
    with pytest.raises(ValueError, match="'tools' is a text that is not JSON"):
        read_tools("[" * 100_000)
    with pytest.raises(ValueError, match="function_call is not JSON"):
        read_messages([{"from": "function_call", "value": "[" * 100_000}])


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """Return a model's folder with a tokenizer, to be damaged."""
    return Path(shutil.copytree(resolve_model("embedded:qwen2_tiny"), tmp_path / "model"))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_max_length": "x"},
        {"added_tokens_decoder": {str(2**40): {"content": "zz", "special": True}}},
        {"added_tokens_decoder": [1]},
        {"tokenizer_class": 3},
        {"tokenizer_class": "os.system"},
    ],
)
def test_settings_of_a_tokenizer(tokenizer_folder: Path, changes: dict[str, Any]) -> None:
    """Fault: a tokenizer's settings are of another kind. Promise: it works all the same, or one sentence with its folder."""
    path = tokenizer_folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    try:
        read_tokenizer(str(tokenizer_folder))("text")
    except FileNotFoundError as error:
        assert str(error).startswith(f"no tokenizer in {tokenizer_folder}: ") and len(str(error).splitlines()) == 1


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"{", b"[]", b"null", b"\xff\xfe\x00"])
def test_files_of_a_tokenizer(tokenizer_folder: Path, file: str, content: bytes) -> None:
    """Fault: a tokenizer's file is damaged. Promise: one sentence with its folder."""
    (tokenizer_folder / file).write_bytes(content)
    with pytest.raises(FileNotFoundError, match=f"no tokenizer in {tokenizer_folder}: ") as raised:
        read_tokenizer(str(tokenizer_folder))
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ nosuch() }}", "{{ raise_exception('no') }}", "{{ 1//0 }}", "{% include '/etc/passwd' %}"]
)
def test_chat_templates_that_fail(tokenizer_folder: Path, tmp_path: Path, template: str) -> None:
    """Fault: a run's chat template fails. Promise: `generate` says so in one sentence."""
    (tmp_path / TEMPLATE_FILE).write_text(template)
    tokenizer = read_tokenizer(str(tokenizer_folder), run_folder=tmp_path)
    with pytest.raises(ValueError, match="the chat template refuses the prompt") as raised:
        ask(tokenizer, "hello", PromptFormat())
    assert len(str(raised.value).splitlines()) == 1 and not isinstance(raised.value, TemplateError)


def test_a_chat_template_that_is_no_text(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Fault: a run's chat template is no UTF-8. Promise: one sentence with its path."""
    (tmp_path / TEMPLATE_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=rf"{TEMPLATE_FILE} holds no UTF-8 text"):
        read_tokenizer(str(tokenizer_folder), run_folder=tmp_path)
