"""The plots of one run: where a step's time went, memory, traffic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from splitlearn.json_text import read_json_object
from splitlearn.memory import GIB
from splitlearn.report.columns import plain_text
from splitlearn.report.plots import DASHES, LINE_COLORS, new_figure, plot_text
from splitlearn.report.records import as_figure, as_mapping

MEMORY_REPORT = "memory_report.json"
PHASES = ("data", "bottom", "cut_1", "trunk", "cut_2", "top", "backward", "optimizer")
# Of runs with servers; the first lies within the phases, the second beside them.
OF_SERVERS = ("waiting_for_servers", "at_servers")
TIMES = {"median_s": "median", "p95_s": "P95", "p99_s": "P99"}
MEMORY_KINDS = {
    "parameter_bytes": "parameters",
    "gradient_bytes": "gradients",
    "optimizer_bytes": "optimizer state",
    "activation_bytes": "saved activations",
}
_MOST_SNAPSHOTS = 500
_MOST_PARTS = 16
# Patterns beside colours, so that a stacked bar can be read without them.
_PATTERNS = ("", "/", ".", "x")


def phase_times(phases: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return for each phase of a step that was measured, and for ``step``, its times in seconds."""
    times = {}
    for name in (*PHASES, "step", *OF_SERVERS):
        measured = {key: as_figure(as_mapping(phases.get(name)).get(key)) for key in TIMES}
        known = {key: value for key, value in measured.items() if value is not None}
        if "median_s" in known:
            times[name] = known
    return times


def phases_figure(phases: Mapping[str, Any]) -> go.Figure | None:
    """Return bars of the phases' medians, with marks at P95 and P99; None if they were not measured."""
    times = {name: of_phase for name, of_phase in phase_times(phases).items() if name != "step"}
    if not times:
        return None
    names = [name.replace("_", " ") for name in times]
    figure = new_figure("milliseconds", "", height=330)
    milliseconds = [1000 * of_phase["median_s"] for of_phase in times.values()]
    text = [f"{value:.1f}" for value in milliseconds]
    bars = go.Bar(x=milliseconds, y=names, orientation="h", name="median", marker={"color": LINE_COLORS[0]}, text=text)
    figure.add_trace(bars.update(textposition="auto", customdata=_told(times, "median_s"), hoverinfo="text"))
    for key, symbol, color in (("p95_s", "line-ns", LINE_COLORS[1]), ("p99_s", "x-thin", LINE_COLORS[3])):
        known = {name: of_phase[key] for name, of_phase in times.items() if key in of_phase}
        marker = {"symbol": symbol, "size": 11, "line": {"width": 2, "color": color}}
        x, y = [1000 * value for value in known.values()], [name.replace("_", " ") for name in known]
        told = _told(times, key)
        figure.add_trace(
            go.Scatter(x=x, y=y, mode="markers", marker=marker, name=TIMES[key], customdata=told, hoverinfo="text")
        )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def _told(times: Mapping[str, Mapping[str, float]], key: str) -> list[str]:
    return [f"{name.replace('_', ' ')}, {TIMES[key]}: {1000 * of[key]:.2f} ms" for name, of in times.items() if key in of]


def part_memory_rows(memory: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return for each part its bytes by kind, as far as they were measured."""
    parts = list(as_mapping(memory.get("parts")).items())[:_MOST_PARTS]
    rows = {}
    for name, sizes in parts:
        known = {kind: as_figure(as_mapping(sizes).get(kind)) for kind in MEMORY_KINDS}
        rows[str(name)] = {kind: size for kind, size in known.items() if size is not None}
    return {name: row for name, row in rows.items() if row}


def part_memory_figure(memory: Mapping[str, Any]) -> go.Figure | None:
    """Return stacked bars of what each part holds, by kind; None if it was not measured."""
    rows = part_memory_rows(memory)
    if not rows:
        return None
    figure = new_figure("", "MiB", height=330)
    for number, (kind, name) in enumerate(MEMORY_KINDS.items()):
        sizes = [row.get(kind, 0.0) / 2**20 for row in rows.values()]
        told = [f"{part}, {name}: {size:,.1f} MiB" for part, size in zip(rows, sizes, strict=True)]
        marker = {
            "color": LINE_COLORS[number],
            "pattern": {"shape": _PATTERNS[number], "fillmode": "overlay", "fgcolor": "#ffffff", "size": 6},
        }
        bar = go.Bar(x=[plot_text(part) for part in rows], y=sizes, name=name, marker=marker, customdata=told)
        figure.add_trace(bar.update(hoverinfo="text"))
    figure.update_layout(barmode="stack")
    return figure


def read_snapshots(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the snapshots of memory that a run has kept, at most 500 of each kind.

    Returns:
        ``epochs``: what parts and process held at the end of each; ``snapshots``: the process at other moments too.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    path = folder / MEMORY_REPORT
    content = read_json_object(path) if path.is_file() else {}
    kept = {}
    for kind in ("epochs", "snapshots"):
        entries = content.get(kind)
        kept[kind] = (
            [entry for entry in entries if isinstance(entry, dict)][-_MOST_SNAPSHOTS:] if isinstance(entries, list) else []
        )
    return kept


def memory_over_time_figure(kept: Mapping[str, list[dict[str, Any]]]) -> go.Figure | None:
    """Return lines of what the parts hold and of the process's memory, by the time of the snapshots; None if there are none."""
    lines: dict[str, list[tuple[float, float, str]]] = {}
    moments = kept.get("snapshots") or [dict(as_mapping(epoch.get("process"))) for epoch in kept.get("epochs", ())]
    for moment in moments:
        _add(lines, moment, {name: as_figure(moment.get(key)) for name, key in _OF_PROCESS.items()})
        gpus = moment.get("gpu_bytes")
        known = [as_figure(size) or 0.0 for size in gpus] if isinstance(gpus, list) else []
        _add(lines, moment, {"GPUs": sum(known) if known else None})
    for epoch in kept.get("epochs", ()):
        parts = epoch.get("parts")
        for part in (parts if isinstance(parts, list) else [])[:_MOST_PARTS]:
            name, size = f"part {plain_text(as_mapping(part).get('name'), 40)}", _held_by(as_mapping(part))
            _add(lines, as_mapping(epoch.get("process")), {name: size})
    if not lines:
        return None
    figure = new_figure("seconds since the start", "GiB", height=330)
    for number, (name, points) in enumerate(lines.items()):
        xs, ys, told = (list(values) for values in zip(*points, strict=True))
        line = {"color": LINE_COLORS[number % len(LINE_COLORS)], "dash": DASHES[number % len(DASHES)]}
        trace = go.Scatter(x=xs, y=ys, mode="lines+markers", name=plot_text(name), line=line, customdata=told)
        figure.add_trace(trace.update(hoverinfo="text"))
    figure.update_yaxes(rangemode="tozero")
    return figure


def _held_by(part: Mapping[str, Any]) -> float | None:
    """Return the bytes of a part: what was measured of it in training, or its weights alone."""
    measured = [as_figure(part.get(kind)) for kind in MEMORY_KINDS]
    if all(size is None for size in measured):
        return as_figure(part.get("weight_bytes"))
    return sum(size for size in measured if size is not None)


def _add(
    lines: dict[str, list[tuple[float, float, str]]], moment: Mapping[str, Any], sizes: Mapping[str, float | None]
) -> None:
    """Add the sizes that are known to the lines of their names: time, GiB, and what is said of the point."""
    time_s = as_figure(moment.get("time_s"))
    for name, size in sizes.items():
        if size is not None and time_s is not None:
            words = f"{plain_text(moment.get('label'), 60)}, {name}: {size / GIB:.3f} GiB"
            lines.setdefault(name, []).append((time_s, size / GIB, words))


_OF_PROCESS = {"process, resident": "rss_bytes", "process, anonymous": "anonymous_bytes"}


def traffic_rows(traffic: Mapping[str, Any]) -> list[tuple[str, str, str, float]]:
    """Return what crosses in an optimizer step: cut, payload, direction and bytes."""
    rows = []
    for cut in ("cut_1", "cut_2"):
        for payload in ("activation", "gradient"):
            for direction in ("uplink", "downlink"):
                size = as_figure(as_mapping(traffic.get(cut)).get(f"{payload}_{direction}_bytes_per_step"))
                if size:
                    rows.append((cut.replace("_", " "), f"{payload}s", "up" if direction == "uplink" else "down", size))
    return rows


def traffic_figure(traffic: Mapping[str, Any]) -> go.Figure | None:
    """Return bars of the bytes of a step by cut, payload and direction; None if nothing was counted."""
    rows = traffic_rows(traffic)
    if not rows:
        return None
    figure = new_figure("KiB a step", "", height=120 + 45 * len(rows))
    names = [f"{cut}: {payload} {direction}" for cut, payload, direction, _ in rows]
    sizes = [size / 2**10 for *_, size in rows]
    told = [f"{name}: {size:,.1f} KiB a step" for name, size in zip(names, sizes, strict=True)]
    bar = go.Bar(x=sizes, y=names, orientation="h", marker={"color": LINE_COLORS[0]}, customdata=told)
    figure.add_trace(bar.update(hoverinfo="text", text=[f"{size:,.1f}" for size in sizes], textposition="auto"))
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure
