"""The plots of one run, of what was measured and of records that say less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitlearn.report import run_figures
from tests.report.written_runs import GIB, summary

PROCESS = {"label": "epoch 1", "time_s": 2.0, "rss_bytes": 2 * GIB, "anonymous_bytes": GIB, "gpu_bytes": [GIB, GIB]}
MEASURED = {"parameter_bytes": GIB, "gradient_bytes": GIB, "optimizer_bytes": 2 * GIB, "activation_bytes": GIB}


def lines(kept: Any) -> dict[str, list[float]]:
    figure = run_figures.memory_over_time_figure(kept)
    return {} if figure is None else {trace.name: list(trace.y) for trace in figure.data}


def test_memory_over_time_is_what_was_measured_or_the_weights() -> None:
    parts = [{"name": "bottom", "weight_bytes": GIB, **MEASURED}, {"name": "top", "weight_bytes": GIB}]
    expected = {"process, resident": [2.0], "process, anonymous": [1.0], "GPUs": [2.0], "part bottom": [5.0], "part top": [1.0]}
    assert lines({"epochs": [{"parts": parts, "process": PROCESS}], "snapshots": []}) == expected
    moments = [{"label": "loaded", "time_s": 1.0, "rss_bytes": GIB}, PROCESS]
    assert lines({"epochs": [{"parts": parts, "process": PROCESS}], "snapshots": moments})["process, resident"] == [1.0, 2.0]


def test_snapshots_of_the_wrong_kind_are_left_out(tmp_path: Path) -> None:
    assert run_figures.read_snapshots(tmp_path) == {"epochs": [], "snapshots": []}
    content = {"epochs": [1, {"parts": 3, "process": [1]}, {"parts": ["x"], "process": {"time_s": 1}}], "snapshots": "many"}
    (tmp_path / "memory_report.json").write_text(json.dumps(content))
    assert lines(run_figures.read_snapshots(tmp_path)) == {}
    (tmp_path / "memory_report.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        run_figures.read_snapshots(tmp_path)


def test_phases_parts_and_traffic() -> None:
    record = summary(1, 6)
    assert run_figures.phase_times(record["phases"])["bottom"] == {"median_s": 0.02, "p95_s": 0.025, "p99_s": 0.03}
    assert run_figures.part_memory_rows(record["memory"])["trunk"]["optimizer_bytes"] == int(2 * GIB * 0.4)
    assert run_figures.traffic_rows(record["traffic"])[0] == ("cut 1", "activations", "up", 2048.0)


@pytest.mark.parametrize(
    "value", [{}, {"parts": 1, "step": 2, "cut_1": 3}, {"parts": {"bottom": 1}, "bottom": {"median_s": "x"}}]
)
def test_records_that_say_nothing_have_no_plots(value: dict[str, Any]) -> None:
    assert run_figures.phases_figure(value) is None
    assert run_figures.part_memory_figure(value) is None
    assert run_figures.traffic_figure(value) is None
