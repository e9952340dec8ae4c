from __future__ import annotations

import sys
from typing import Any

import pytest

from splitlearn.cli import plan


def test_an_interruption_ends_with_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(cfg: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "plan", stopped)
    monkeypatch.setattr(sys, "argv", ["plan"])
    with pytest.raises(SystemExit) as end:
        plan.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
