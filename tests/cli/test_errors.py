from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from splitlearn.cli import plan
from splitlearn.cli.errors import sentence_of
from splitlearn.cut import CutError


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def fail(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the exit status of a command whose task ends with an error."""

    def failing(cfg: Any) -> None:
        raise error

    monkeypatch.setattr("splitlearn.app.plan", failing)
    monkeypatch.setattr(sys, "argv", ["plan"])
    with pytest.raises(SystemExit) as end:
        plan.main()
    return end.value.code


def test_an_interruption_ends_with_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("error", "word"), [(ValueError("tokens is 0"), "error"), (CutError("no such layer"), "refused")])
def test_bad_input_ends_with_2_and_one_sentence(
    error: Exception, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(error, monkeypatch) == 2
    assert capsys.readouterr().err == f"{word}: {error}\n"


def test_names_from_files_do_not_steer_the_terminal() -> None:
    assert sentence_of(ValueError("a\nb\x1b[31m \u202e")) == "a b?[31m ?"
    assert len(sentence_of(ValueError("x" * 10_000))) < 4_100
