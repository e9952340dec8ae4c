import gc
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from splitlearn.data import TextDataModule, scratch
from splitlearn.embedded import resolve_model

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


def test_a_forked_process_leaves_the_folder_of_its_parent(tmp_path: Path) -> None:
    held = [scratch.ScratchFolder(tmp_path)]
    path = held[0].path
    child = os.fork()
    if child == 0:
        held.clear()
        os._exit(0)
    os.waitpid(child, 0)
    assert path.is_dir()
    held.clear()
    assert not path.exists()


def test_a_data_modules_rows_go_with_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for name in ("notes", "others"):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{name} {number}" for number in range(80)))
    sources = {"source": str(tmp_path / "notes.txt"), "val_source": str(tmp_path / "others.txt")}
    data = TextDataModule(resolve_model("embedded:qwen2_tiny"), **sources, block_size=16, batch_size=2, num_workers=2)
    data.setup()
    assert len(list(tmp_path.rglob("rows.arrow"))) == 2
    # Processes that prepare batches end without taking the rows along.
    assert len(list(data.train_dataloader())) > 2 and len(list(tmp_path.rglob("rows.arrow"))) == 2
    blocks = data.blocks["train"]
    first = blocks[0]["input_ids"].tolist()
    del data
    gc.collect()
    longer = blocks.map(lambda block: {"length": len(block["input_ids"])})
    assert longer[0]["length"] == 16 and blocks[0]["input_ids"].tolist() == first
    copied = blocks.with_format("torch")
    del blocks, longer
    gc.collect()
    assert list(tmp_path.rglob("rows.arrow")) != []
    del copied
    gc.collect()
    assert list(tmp_path.rglob("*.arrow")) == []
