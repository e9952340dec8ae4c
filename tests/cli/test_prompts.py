from __future__ import annotations

import io
from typing import Any

import pytest
from omegaconf import OmegaConf

from splitlearn.cli.arguments import prepare
from splitlearn.settings import SettingError, compose


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())


def prompt_of(*arguments: str) -> Any:
    cfg = compose(*prepare("generate", ["run=a", *arguments]), config_name="generate")
    return OmegaConf.to_container(cfg, resolve=True)["prompt"]  # type: ignore[call-overload, index]


@pytest.mark.parametrize(
    "text",
    [
        "It's a test, isn't it?",
        "What is x = 5?",
        "x=5 is what?",
        "f(x) = [1, 2], {a: b}",
        'Say "hello", ${name}',
        "- a list item",
        "one\ntwo",
        "hello",
        "",
    ],
)
def test_a_sentence_is_a_prompt(text: str) -> None:
    if text:
        assert prompt_of(text) == text
        assert prompt_of(f"prompt={text}") == text
    assert prompt_of("max_new_tokens=3", "--", text or "=") == (text or "=")


def test_several_prompts_and_what_comes_after_dashes() -> None:
    assert prompt_of("one", "two, three", "seed=1") == ["one", "two, three"]
    assert prompt_of("--", "seed=1", "--help") == ["seed=1", "--help"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("It's piped,\nin two lines.\n"))
    assert prompt_of() == "It's piped,\nin two lines."
    monkeypatch.setattr("sys.stdin", Terminal("typed, then Ctrl-D\n"))
    assert prompt_of("-") == "typed, then Ctrl-D"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "prompt is not set; give a text, prompt_file=PATH, - for standard input, or chat=true"),
        (["one", "prompt=two"], "prompts are given as prompt and in another way"),
        (["prompt_file=a.txt", "prompt=two"], "prompts are given as prompt_file and in another way"),
        (["max_new_token=3"], "max_new_token is no setting of generate; max_new_tokens was probably meant"),
        (["max_new_token=3 and more", "hello"], "max_new_token is no setting of generate"),
        (["x=5"], "x is no setting of generate"),
        (["--", ""], "prompt is empty"),
    ],
)
def test_what_is_no_prompt(arguments: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        prompt_of(*arguments)
    assert sentence in str(error.value)


def test_a_chat_needs_no_prompt() -> None:
    assert prompt_of("chat=true") is None
