import os
import subprocess
import sys
from pathlib import Path

from splitlearn.data import scratch

PROGRAM = """
import os, pathlib, runpy, sys
folder = runpy.run_path(sys.argv[2])["new_folder"](pathlib.Path(sys.argv[3]))
(folder / "rows").write_text("x")
print(folder.parent, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
if sys.argv[1] == "waits":
    sys.stdin.read()
"""


def start(tmp_path: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, how, scratch.__file__, str(tmp_path / "cache")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}

    return subprocess.Popen(command, env=os.environ | {"TMPDIR": str(tmp_path)}, **pipes)  # type: ignore[call-overload]


def test_folders_go_with_their_process_and_after_a_kill_with_the_next(tmp_path: Path) -> None:
    killed = start(tmp_path, "killed")
    abandoned = Path(killed.communicate(timeout=120)[0].strip())
    assert abandoned.is_dir()
    waiting = start(tmp_path, "waits")
    assert waiting.stdout is not None
    used = Path(waiting.stdout.readline().strip())
    assert used.is_dir() and not abandoned.exists()
    ended = Path(start(tmp_path, "ends").communicate(timeout=120)[0].strip())
    assert used.is_dir() and not ended.exists()
    waiting.communicate(timeout=120)
    assert not used.exists()
