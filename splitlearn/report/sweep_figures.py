"""The plots of a sweep: heat maps over the cuts, what a lower loss costs, learning curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from splitlearn.report.columns import COLUMNS
from splitlearn.report.curves import Curve
from splitlearn.report.groups import label, pareto_front
from splitlearn.report.plots import GREY, HEAT, LINE_COLORS, MARKED, line_style, new_figure, plot_text
from splitlearn.report.tables import mean_text

HEAT_MAPS = ("loss", "client_gib", "bytes_per_step", "step_s", "link_step_s", "token_recovery")
# More cells than so in a row have no room for numbers.
_MOST_NUMBERED = 10
_MOST_NAMES = 6
_MOST_LETTERS = 80
# With more groups than so only those on the front name their runs: the page would become too large.
_MOST_NAMED = 300
# Cuts whose learning curves have colours, and points of a curve that are marked one by one.
_MOST_COLORED = 8
_MOST_MARKERS = 30
OTHERS = "other cuts and runs"
# Bytes and seconds as numbers that fit a cell.
_SCALES = {
    "bytes_per_step": (2**20, "MiB a step"),
    "step_s": (1e-3, "ms"),
    "link_step_s": (1e-3, "ms"),
    "token_recovery": (0.01, "%"),
}


@dataclass(frozen=True)
class Sweep:
    """The runs of one model.

    Attributes:
        frame: one row a run.
        groups: its groups over seeds.
        chosen: the label of the recommended group; None if there is none.
    """

    frame: pd.DataFrame
    groups: pd.DataFrame
    chosen: str | None


def unit_of(name: str) -> str:
    """Return the unit in which plots show a figure."""
    return _SCALES[name][1] if name in _SCALES else COLUMNS[name].unit


def heat_map(sweep: Sweep, name: str) -> go.Figure | None:
    """Return a figure over both split points, where cuts that were refused or failed have a cross; None if nobody measured it.

    Of several groups with the same cut the one with the lowest loss is shown.
    """
    best = sweep.groups.drop_duplicates(["split_point_1", "split_point_2"])
    if not best[name].notna().any():
        return None
    open_runs = sweep.frame[sweep.frame["split_point_1"].notna() & sweep.frame["split_point_2"].notna()]
    firsts, seconds = (sorted({int(point) for point in open_runs[column]}) for column in ("split_point_1", "split_point_2"))
    values = np.full((len(firsts), len(seconds)), np.nan)
    hover = np.full(values.shape, "", dtype=object)
    for _, group in best.iterrows():
        place = firsts.index(int(group["split_point_1"])), seconds.index(int(group["split_point_2"]))
        values[place] = group[name] / _SCALES.get(name, (1, ""))[0]
        hover[place] = (
            f"cut {group['label'][:_MOST_LETTERS]}\n{COLUMNS[name].heading}: {mean_text(group, name)}\n{_names(group['runs'])}"
        )
    figure = new_figure("second cut (first layer of the top)", "first cut (first layer of the trunk)", height=330)
    figure.add_trace(_cells(firsts, seconds, values, hover, name))
    _cross_out(figure, open_runs, best)
    chosen = best[best["label"] == sweep.chosen]
    if len(chosen):
        x, y = seconds.index(int(chosen["split_point_2"].iloc[0])), firsts.index(int(chosen["split_point_1"].iloc[0]))
        line = {"color": MARKED, "width": 4}
        figure.add_shape(type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line=line)
    for axis, points in ((figure.layout.xaxis, seconds), (figure.layout.yaxis, firsts)):
        axis.update(type="category", categoryorder="array", categoryarray=[str(point) for point in points], showgrid=False)
    return figure


def _cells(firsts: list[int], seconds: list[int], values: np.ndarray, hover: np.ndarray, name: str) -> go.Heatmap:
    has_room = len(seconds) <= _MOST_NUMBERED
    shown = [["" if np.isnan(value) else _short(value) for value in row] for row in values]
    return go.Heatmap(
        x=[str(point) for point in seconds],
        y=[str(point) for point in firsts],
        z=[[None if np.isnan(value) else float(value) for value in row] for row in values],
        text=shown,
        texttemplate="%{text}" if has_room else None,
        customdata=hover.tolist(),
        hoverinfo="text",
        colorscale=HEAT,
        colorbar={"thickness": 10, "outlinewidth": 0, "title": {"text": plot_text(unit_of(name)), "side": "right"}},
        xgap=2,
        ygap=2,
    )


def _short(value: float) -> str:
    """Return a number in at most some six characters."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _cross_out(figure: go.Figure, runs: pd.DataFrame, best: pd.DataFrame) -> None:
    """Mark the cuts of which no run completed."""
    done = {(int(first), int(second)) for first, second in zip(best["split_point_1"], best["split_point_2"], strict=True)}
    open_runs = runs[[(int(a), int(b)) not in done for a, b in zip(runs["split_point_1"], runs["split_point_2"], strict=True)]]
    open_runs = open_runs.drop_duplicates(["split_point_1", "split_point_2"])
    if open_runs.empty:
        return
    hover = [
        f"cut {label(run['split_point_1'], run['split_point_2'])}\n{run['status']}: {(run['reason'] or 'no reason given')[:90]}"
        for _, run in open_runs.iterrows()
    ]
    figure.add_trace(
        go.Scatter(
            x=[str(point) for point in open_runs["split_point_2"]],
            y=[str(point) for point in open_runs["split_point_1"]],
            mode="markers",
            marker={"symbol": "x-thin", "size": 12, "line": {"width": 2, "color": GREY}},
            customdata=hover,
            hoverinfo="text",
            showlegend=False,
        )
    )


def _names(runs: list[str]) -> str:
    """Return the names of a group's runs, the first few of them if there are many."""
    more = [f"and {len(runs) - _MOST_NAMES} more"] if len(runs) > _MOST_NAMES else []
    return "\n".join([*(run[:_MOST_LETTERS] for run in runs[:_MOST_NAMES]), *more])


def trade_off(sweep: Sweep, cost: str) -> go.Figure | None:
    """Return the loss against a cost, with the front of cuts that no other beats in both; None where all cost the same."""
    groups = sweep.groups[sweep.groups["loss"].notna() & sweep.groups[cost].notna()]
    if groups[cost].nunique() < 2:
        return None
    scale = _SCALES.get(cost, (1, ""))[0]
    front = pareto_front(groups, ["loss", cost])
    figure = new_figure(f"{COLUMNS[cost].heading} ({unit_of(cost)})", "held-out loss (nats a token)")
    line = groups[front].sort_values(cost)
    shape = {"shape": "hv", "color": GREY, "width": 1.5, "dash": "dot"}
    costs = line[cost] / scale
    figure.add_trace(
        go.Scatter(x=costs.tolist(), y=line["loss"].tolist(), mode="lines", line=shape, hoverinfo="skip", showlegend=False)
    )
    is_chosen = (groups["label"] == sweep.chosen).to_numpy()
    kinds = (
        ("other cuts", ~front & ~is_chosen, {"symbol": "circle-open", "size": 9, "color": GREY}),
        ("on the Pareto front", front & ~is_chosen, {"symbol": "diamond", "size": 11, "color": LINE_COLORS[0]}),
        ("recommended", is_chosen, {"symbol": "star", "size": 17, "color": MARKED}),
    )
    for name, mask, marker in kinds:
        if mask.any():
            has_names = name != "other cuts" or len(groups) <= _MOST_NAMED
            figure.add_trace(_points(groups[mask], cost, scale, name, marker, has_names))
    return figure


def _points(groups: pd.DataFrame, cost: str, scale: float, name: str, marker: dict[str, object], has_names: bool) -> go.Scatter:
    hover = [
        f"cut {group['label'][:_MOST_LETTERS]}\nheld-out loss: {mean_text(group, 'loss')}\n"
        f"{COLUMNS[cost].heading}: {mean_text(group, cost)}" + (f"\n{_names(group['runs'])}" if has_names else "")
        for _, group in groups.iterrows()
    ]
    has_room = len(groups) <= _MOST_NUMBERED and name != "other cuts"
    spread = [None if np.isnan(value) else value for value in groups["loss_std"]]
    return go.Scatter(
        x=(groups[cost] / scale).tolist(),
        y=groups["loss"].tolist(),
        error_y={"type": "data", "array": spread, "color": GREY, "thickness": 1.2, "width": 4},
        mode="markers+text" if has_room else "markers",
        text=[plot_text(label(group.split_point_1, group.split_point_2)) for group in groups.itertuples()],
        textposition="top right",
        cliponaxis=False,
        marker=marker,
        name=name,
        customdata=hover,
        hoverinfo="text",
    )


def curves_figure(curves: dict[str, dict[str, Curve]], sweep: Sweep, kind: str) -> go.Figure | None:
    """Return the learning curves of some runs; those of one cut look alike.

    With many cuts the recommended one and the best have colours, and the others are grey.

    Args:
        curves: for each run its curves.
        sweep: the runs.
        kind: ``"val_loss"`` or ``"train_loss_step"``.
    """
    figure = new_figure(
        "optimizer step", "held-out loss (nats a token)" if kind == "val_loss" else "training loss (nats a token)"
    )
    rows = sweep.frame[sweep.frame["run"].isin([run for run, of_run in curves.items() if kind in of_run])]
    if rows.empty:
        return None
    cut_of = {run: group["label"] for _, group in sweep.groups.iterrows() for run in group["runs"]}
    colored = [cut for cut in sweep.groups["label"].head(_MOST_COLORED) if cut != sweep.chosen]
    shown = set()
    # Grey lines first, the recommended cut's last: later ones are drawn over earlier ones.
    order = {OTHERS: 0, **{cut: 1 + place for place, cut in enumerate(reversed(colored))}, sweep.chosen: 1 + _MOST_COLORED}
    named = [(cut if cut in order else OTHERS, row) for row in rows.itertuples() for cut in [cut_of.get(row.run)]]
    for cut, row in sorted(named, key=lambda entry: order[entry[0]]):
        name = f"cut {cut}, recommended" if cut == sweep.chosen else cut if cut == OTHERS else f"cut {cut}"
        trace = _line(curves[row.run][kind], row.run, _curve_style(cut, colored, sweep.chosen))
        figure.add_trace(trace.update(name=plot_text(name[:60]), legendgroup=name, showlegend=name not in shown))
        shown.add(name)
    return figure


def _curve_style(cut: str | None, colored: list[str], chosen: str | None) -> dict[str, object]:
    if cut == chosen:
        return {"color": MARKED, "width": 3.5}
    return line_style(colored.index(cut)) if cut in colored else {"color": GREY, "width": 1}


def _line(curve: Curve, run: str, style: dict[str, object]) -> go.Scatter:
    return go.Scatter(
        x=curve.steps,
        y=curve.losses,
        mode="lines+markers" if len(curve.steps) < _MOST_MARKERS else "lines",
        marker={"size": 5},
        line=style,
        meta=run,
        hovertemplate=f"{_template(run)}<br>step %{{x}}: %{{y:.4f}}<extra></extra>",
    )


def _template(text: str) -> str:
    """Return a text for a template of the plotting library, which reads ``%{...}`` in it as a variable."""
    return plot_text(text).replace("%{", "%&#123;")
