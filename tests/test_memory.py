import mmap
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len

from splitlearn.memory import GIB, MemoryTracker

SIZE = 64 * 2**20


def allocate(size_bytes: int) -> mmap.mmap:
    """Return fresh private memory that is resident; malloc might hand out what earlier tests left resident."""
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"x" * size_bytes)
    return memory


def grown(before_bytes: int | None, after_bytes: int | None) -> int:
    assert before_bytes is not None and after_bytes is not None
    return after_bytes - before_bytes


def test_snapshots_see_anonymous_memory_grow() -> None:
    tracker = MemoryTracker()
    before = tracker.snapshot("before")
    held = allocate(SIZE)
    after = tracker.snapshot("after")
    held.close()
    assert after.rss_bytes - before.rss_bytes > 0.9 * SIZE
    if sys.platform == "linux":
        assert grown(before.anonymous_bytes, after.anonymous_bytes) > 0.9 * SIZE
        assert abs(grown(before.file_bytes, after.file_bytes)) < 8 * 2**20
    assert tracker.peak_rss_bytes == max(before.rss_bytes, after.rss_bytes)


def test_mapped_files_count_as_file_backed_where_the_system_tells(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(64 * 2**20))
    tracker = MemoryTracker()
    before = tracker.snapshot("before")
    mapped = torch.from_file(str(path), shared=False, size=64 * 2**20, dtype=torch.uint8)
    mapped.max()
    after = tracker.snapshot("after")
    if sys.platform != "linux":
        assert after.file_bytes is None
        return
    assert grown(before.file_bytes, after.file_bytes) > 60 * 2**20
    assert grown(before.anonymous_bytes, after.anonymous_bytes) < 8 * 2**20


def test_a_peak_between_two_snapshots_is_sampled() -> None:
    with MemoryTracker(sample_interval_s=0.005) as tracker:
        start = tracker.snapshot("start")
        held = allocate(SIZE)
        time.sleep(0.2)
        held.close()
        end = tracker.snapshot("end")
    assert tracker.peak_rss_bytes > start.rss_bytes + 0.9 * SIZE
    assert end.rss_bytes < tracker.peak_rss_bytes


def test_printed_forms(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = MemoryTracker()
    with pytest.raises(ValueError, match="call snapshot"):
        tracker.report()
    tracker.snapshot("开始")
    tracker.snapshot("加载完成")
    report, summary = tracker.report(), tracker.summary()
    assert capsys.readouterr().out == f"{report}\n{summary}\n"
    lines = report.splitlines()
    assert lines[0] == "Memory: 加载完成"
    assert lines[1].startswith("  RAM: ") and lines[1].endswith(" GiB)")
    assert lines[2] == "  GPU: 0.00 GiB (+0.00 GiB)"
    lines = summary.splitlines()
    assert lines[0] == "=== Memory Usage Summary ==="
    assert lines[1] == f"Peak RAM: {tracker.peak_rss_bytes / GIB:.2f} GiB"
    assert lines[4] == "Timeline:"
    columns = {cell_len(line[: line.index("RAM:")]) for line in lines[5:]}
    assert len(columns) == 1, "labels of any width line up on a terminal"


def test_current_usage_is_in_gib_and_records_nothing() -> None:
    tracker = MemoryTracker()
    usage = tracker.get_current_usage()
    assert 0 < usage["ram_gib"] < 100
    assert usage["gpu_gib"] == 0 or torch.cuda.is_available()
    assert tracker.snapshots == []


def test_memory_that_is_taken_in_a_pause_is_in_no_peak() -> None:
    with MemoryTracker(sample_interval_s=0.005) as tracker:
        before = tracker.sample().rss_bytes
        with tracker.paused():
            taken = allocate(300 * 2**20)
            tracker.snapshot("within")
            time.sleep(0.05)
            taken.close()
        time.sleep(0.05)
    assert tracker.snapshots[0].rss_bytes > before + 250 * 2**20, "snapshots are taken all the same"
    assert tracker.peak_rss_bytes < before + 100 * 2**20
    assert tracker.peak_anonymous_bytes < before + 100 * 2**20
