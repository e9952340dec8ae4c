from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from splitlearn.cli import plan


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_interruption_ends_with_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(cfg: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("splitlearn.app.plan", stopped)
    monkeypatch.setattr(sys, "argv", ["plan"])
    with pytest.raises(SystemExit) as end:
        plan.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
