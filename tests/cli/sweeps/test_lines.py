from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from splitlearn.cli.sweeps.lines import closing_line, format_seconds, line, opening_line
from splitlearn.cli.sweeps.outcomes import Job, Outcome
from splitlearn.runs import RunSummary

JOB = Job(2, ["split.point_1=2", "seed=1"], Path("multirun/a"), OmegaConf.create())


def test_a_completed_run() -> None:
    summary = RunSummary(metrics={"val_loss_after": 2.34567, "peak_rss_gib": 0.61, "peak_gpu_gib": 0.0})
    told = line(JOB, 16, Outcome("completed", summary=summary, seconds=31.2), 372.0)
    assert told == " 3/16  split.point_1=2 seed=1  loss 2.3457  peak 624.64 MiB  31 s  about 6.2 min left"


def test_a_run_that_came_to_another_end_says_why_in_one_line() -> None:
    told = line(JOB, 3, Outcome("failed", "first\nsecond", seconds=1.0), None)
    assert told == "3/3  split.point_1=2 seed=1  failed: first second (see multirun/a)  1 s"
    assert line(JOB, 3, Outcome("refused", "no cut", seconds=0.4), None) == "3/3  split.point_1=2 seed=1  refused: no cut  0 s"
    assert (
        line(JOB, 3, Outcome("skipped", "completed before"), None) == "3/3  split.point_1=2 seed=1  skipped: completed before"
    )
    assert len(line(JOB, 3, Outcome("failed", "x" * 9000), None)) < 400


def test_the_sum_says_how_many_were_skipped_and_not_begun() -> None:
    told = closing_line([Outcome("skipped"), Outcome("completed"), Outcome("skipped"), Outcome("held")], 6)
    assert told == "6 runs: 1 completed, 1 left to another process, 2 skipped (done before), 2 not begun"
    assert opening_line(1, Path("a")).startswith("sweep of 1 run in a;")


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.0, "59 s"), (90.0, "1.5 min"), (5400.0, "1.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
