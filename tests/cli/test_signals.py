"""Commands end by Ctrl-C and SIGTERM as shells expect."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from splitlearn.cli.run_folder import OpenRunFolder

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
IMPORTING = "from splitlearn.cli import signals; signals.end_at_once(); {then}print('importing', flush=True); time.sleep(9)"


def ended(code: str, number: int) -> tuple[int, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", f"import time; {code}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(number)
    return process.wait(), process.communicate()[1]


@pytest.mark.parametrize("number", SIGNALS)
def test_while_importing_a_command_ends_at_once_without_traceback(number: int) -> None:
    assert ended(IMPORTING.format(then=""), number) == (128 + number, f"interrupted by {signal.Signals(number).name}\n")


def test_later_sigterm_lets_a_command_clean_up() -> None:
    code = f"import atexit, sys; atexit.register(lambda: print('cleaned', file=sys.stderr)); {IMPORTING}"
    assert ended(code.format(then="signals.raise_errors(); "), signal.SIGTERM) == (143, "interrupted by SIGTERM\ncleaned\n")


def test_a_folder_in_which_a_file_is_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from omegaconf import OmegaConf

    (tmp_path / "file").touch()
    cfg = OmegaConf.create({"hydra": {"run": {"dir": str(tmp_path / "file")}, "sweep": {"dir": str(tmp_path / "file" / "x")}}})
    for refuses in (OpenRunFolder().on_run_start, OpenRunFolder().on_multirun_start):
        with pytest.raises(SystemExit) as end:
            refuses(cfg)
        assert end.value.code == 2
        told = capsys.readouterr().err
        assert told.startswith("error: the run's folder") and told.count("\n") == 1
