from __future__ import annotations

import sys
from typing import Any

import pytest

from splitlearn.cli import verify
from splitlearn.cut import SplitPlan
from splitlearn.verification import Outcome


@pytest.mark.parametrize(("difference", "status"), [(1e-3, 1), (0.0, 0)])
def test_the_exit_status_says_whether_the_model_is_the_same(
    difference: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compared(cfg: Any) -> tuple[SplitPlan, list[Outcome]]:
        return SplitPlan(8, 2, 6), [Outcome("logits", 5, difference)]

    monkeypatch.setattr("splitlearn.app.verify", compared)
    monkeypatch.setattr(sys, "argv", ["verify"])
    if status:
        with pytest.raises(SystemExit) as stopped:
            verify.main()
        assert stopped.value.code == status
    else:
        verify.main()
    assert ("DIFFERENT" if status else "equal") in capsys.readouterr().out
