from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from splitlearn.cli.generate import main, typed_turns


def test_turns_end_with_the_input_or_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for typed in ("It's one?\n\n x = 2, three\nexit\nnot this\n", "It's one?\nx = 2, three"):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert list(typed_turns()) == ["It's one?", "x = 2, three"]


def test_chat_without_a_prompt_is_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def converse(cfg: Any, turns: Iterable[str], stream: bool) -> Iterator[str]:
        assert cfg.prompt is None and stream
        for turn in turns:
            heard.append(turn)
            yield "yes"

    monkeypatch.setattr("splitlearn.app.converse", converse)
    monkeypatch.setattr("sys.argv", ["generate", "run=a", "chat=true"])
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    main()
    assert heard == ["one", "two"]


def test_a_prompt_with_chat_is_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("splitlearn.app.generate", lambda cfg, stream: asked.append(cfg.prompt))
    monkeypatch.setattr("sys.argv", ["generate", "run=a", "chat=true", "It's x=5, isn't it?"])
    main()
    assert asked == ["It's x=5, isn't it?"]
