"""The page: one HTML file that needs nothing else.

Text of records is anybody's. Jinja escapes it wherever it stands, JSON is escaped by `figures_json`, and the page's policy lets
no script run but the plotting library's and this package's, by their digests.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from splitlearn.memory import format_bytes
from splitlearn.redaction import reason_of
from splitlearn.report import run_figures
from splitlearn.report.attack_rows import HEADINGS, NUMBERS_FROM, attacks_in_words
from splitlearn.report.budgets import Recommendation
from splitlearn.report.columns import COLUMNS, COMPARED, plain_text
from splitlearn.report.curves import Curve, read_curves
from splitlearn.report.groups import group_runs
from splitlearn.report.plots import figures_json
from splitlearn.report.sweep_figures import HEAT_MAPS, Sweep, curves_figure, heat_map, trade_off
from splitlearn.report.tables import count_statuses, figure_text, mean_text
from splitlearn.report.threats import threats_in_words
from splitlearn.runs import RunSummary, privacy_in_words

# With more runs only the Pareto and the best ones have curves.
MANY_RUNS = 200
_BEST_RUNS = 20
# What the page shows of very many runs; runs.csv has them all.
_MOST_ROWS = 1000
_MOST_GROUPS = 500
_MOST_LETTERS = 120
_TABLE = (
    "run",
    "status",
    "split_point_1",
    "split_point_2",
    "seed",
    "settings",
    "loss",
    "client_gib",
    "planned_client_gib",
    "server_gib",
    "bytes_per_step",
    "step_s",
    "link_step_s",
    "waiting_share",
    "token_recovery",
    "train_s",
    "tags",
)
_CURVES = {"val_loss": "Held-out loss", "train_loss_step": "Training loss"}


@dataclass(frozen=True)
class Figure:
    """A plot with its words.

    Attributes:
        name: the id of its place in the page.
        title: its heading.
        about: one sentence that says how to read it.
    """

    name: str
    title: str
    about: str


@dataclass
class Section:
    """What the page shows of one model.

    Attributes:
        model: its name.
        recommendation: the recommended cut, or why there is none.
        heat_maps: the plots over both split points.
        trade_offs: the plots of loss against costs.
        curves: the learning curves.
        notes: what is left out of the curves, and why.
        groups: the table over seeds, headings first.
    """

    model: str
    recommendation: Recommendation
    heat_maps: list[Figure] = field(default_factory=list)
    trade_offs: list[Figure] = field(default_factory=list)
    curves: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)


def sweep_page(
    title: str,
    frame: pd.DataFrame,
    groups: pd.DataFrame,
    recommended: Mapping[str, Recommendation],
    left_out: Mapping[str, str],
) -> str:
    """Return the page of several runs.

    Args:
        title: its heading.
        frame: one row a run.
        groups: its groups, as `group_runs` returns them.
        recommended: for each model the recommendation.
        left_out: folders whose records could not be read, with the reasons.
    """
    figures: dict[str, go.Figure] = {}
    sections = []
    for number, (model, recommendation) in enumerate(recommended.items()):
        of_model = frame[frame["model"].fillna("unknown model") == model]
        of_groups = groups[groups["model"] == model]
        sections.append(_section(str(number), model, of_model, of_groups, recommendation, figures))
    failures = [
        (run.run, run.status, run.reason or "no reason was recorded")
        for run in frame[frame["status"] != "completed"].head(_MOST_GROUPS).itertuples()
    ]
    failures += [(name, "left out", reason) for name, reason in list(left_out.items())[:_MOST_GROUPS]]
    shown = [name for name in _TABLE if name in ("run", "status") or frame[name].replace("", None).notna().any()]
    rows = [[_cell(name, value) for name, value in zip(shown, row, strict=True)] for row in _rows(frame[shown])]
    values = [[_sort_key(value) for value in row] for row in _rows(frame[shown])]
    return _render(
        "sweep.html.j2",
        figures,
        title=title,
        sections=sections,
        failures=failures,
        counts=count_statuses(frame),
        num_runs=len(frame),
        headings=[_heading(name) for name in shown],
        is_number=[COLUMNS[name].kind != "text" for name in shown],
        rows=list(zip(rows, values, strict=True)),
    )


def _cell(name: str, value: Any) -> str:
    text = figure_text(name, value)
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."


def _rows(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(frame.head(_MOST_ROWS).itertuples(index=False, name=None))


def _sort_key(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def _heading(name: str) -> str:
    unit = COLUMNS[name].unit
    return COLUMNS[name].heading + (f" ({unit})" if unit in ("GiB", "s", "nats a token") else "")


def _section(
    number: str,
    model: str,
    frame: pd.DataFrame,
    groups: pd.DataFrame,
    recommendation: Recommendation,
    figures: dict[str, go.Figure],
) -> Section:
    """Make the plots of one model, put them among ``figures``, and return what the page says of it."""
    section = Section(model, recommendation)
    chosen = groups[[run[:1] == list(recommendation.runs[:1]) and bool(run) for run in groups["runs"]]]["label"]
    sweep = Sweep(frame, groups, chosen.iloc[0] if len(chosen) else None)

    def keep(made: go.Figure | None, place: list[Figure], name: str, title: str, about: str) -> None:
        if made is not None:
            figures[f"{name}-{number}"] = made
            place.append(Figure(f"{name}-{number}", title, about))

    for name in HEAT_MAPS:
        title = COLUMNS[name].heading.capitalize()
        keep(
            heat_map(sweep, name),
            section.heat_maps,
            f"heat-{name}",
            title,
            "Dark is low, which is better. Cuts with a cross did not complete.",
        )
    for name in HEAT_MAPS[1:]:
        title = f"Loss against {COLUMNS[name].heading}"
        about = "Lower left is better. No cut beats those on the dotted front in both. Bars show the spread over seeds."
        keep(trade_off(sweep, name), section.trade_offs, f"trade-{name}", title, about)
    curves = _curves(frame, groups, section.notes)
    for kind, title in _CURVES.items():
        about = "One line a run; the runs of a cut look alike. The best cuts have colours."
        keep(curves_figure(curves, sweep, kind), section.curves, f"curve-{kind}", title, about)
    shown = [name for name in COMPARED if groups[name].notna().any()]
    section.groups = [["cut", "runs", *(_heading(name) for name in shown), "Pareto"]]
    for _, group in groups.head(_MOST_GROUPS).iterrows():
        cells = [mean_text(group, name) for name in shown]
        section.groups.append(
            [group["label"][:_MOST_LETTERS], str(group["num_runs"]), *cells, "yes" if group["is_pareto"] else ""]
        )
    return section


def _curves(frame: pd.DataFrame, groups: pd.DataFrame, notes: list[str]) -> dict[str, dict[str, Curve]]:
    """Read the learning curves of all runs, or of many runs those that matter; note what is left out."""
    runs = frame
    if len(frame) > MANY_RUNS:
        front = {run for names in groups[groups["is_pareto"]]["runs"] for run in names}
        best = frame[frame["status"] == "completed"]["run"].head(_BEST_RUNS)
        runs = frame[frame["run"].isin({*best, *front})].head(MANY_RUNS)
        notes.append(
            f"Of {len(frame):,} runs the curves of {len(runs)} are shown: those on the Pareto front and the best by loss."
        )
    curves = {}
    for row in runs.itertuples():
        try:
            curves[row.run] = read_curves(Path(row.folder))
        except (ValueError, OSError) as error:
            notes.append(f"The curves of {row.run} are left out: {plain_text(reason_of(error))}.")
    return {run: of_run for run, of_run in curves.items() if of_run}


def run_page(title: str, row: pd.Series, summary: RunSummary, command: str) -> str:
    """Return the page of a single run.

    Args:
        title: its heading.
        row: its row.
        summary: its record.
        command: the command that trains it again.
    """
    folder, notes = Path(row["folder"]), []
    figures: dict[str, go.Figure] = {}
    places: dict[str, Figure] = {}

    def keep(made: go.Figure | None, name: str, heading: str, about: str) -> None:
        if made is not None:
            figures[name], places[name] = made, Figure(name, heading, about)

    curves: dict[str, dict[str, Curve]] = {}
    snapshots: dict[str, list[dict[str, Any]]] = {}
    try:
        curves = {row["run"]: read_curves(folder)}
        snapshots = run_figures.read_snapshots(folder)
    except (ValueError, OSError) as error:
        notes.append(f"Left out: {plain_text(reason_of(error))}.")
    phases, memory, traffic = summary.phases or {}, summary.memory or {}, summary.traffic or {}
    keep(run_figures.phases_figure(phases), "phases", "Where a step's time went", "Bars are medians; marks are P95 and P99.")
    keep(run_figures.part_memory_figure(memory), "parts", "Memory by part", "As measured in training.")
    about = "Snapshots of the run's memory tracker. A part's line is all that was measured of it, or its weights alone."
    keep(run_figures.memory_over_time_figure(snapshots), "memory", "Memory over time", about)
    keep(run_figures.traffic_figure(traffic), "traffic", "Traffic of a step", "Up is from the data's owner to a server.")
    only = row.to_frame().T
    for kind, heading in _CURVES.items():
        keep(curves_figure(curves, Sweep(only, group_runs(only), None), kind), f"curve-{kind}", heading, "By optimizer step.")
    return _render(
        "run.html.j2",
        figures,
        title=title,
        row=row,
        figures=places,
        facts=[(_heading(name), figure_text(name, row[name])) for name in COLUMNS if figure_text(name, row[name])],
        phases=[
            [name.replace("_", " "), *(f"{1000 * times[key]:.2f}" if key in times else "" for key in run_figures.TIMES)]
            for name, times in run_figures.phase_times(phases).items()
        ],
        parts=[
            [plain_text(name), *(format_bytes(sizes[kind]) if kind in sizes else "" for kind in run_figures.MEMORY_KINDS)]
            for name, sizes in run_figures.part_memory_rows(memory).items()
        ],
        servers=server_rows(summary.server or {}),
        kinds=list(run_figures.MEMORY_KINDS.values()),
        traffic=[[*words, format_bytes(size)] for *words, size in run_figures.traffic_rows(traffic)],
        attacks=attacks_in_words(summary.attacks or {}),
        attack_headings=HEADINGS,
        numbers_from=NUMBERS_FROM,
        threats=threats_in_words(summary.threat_model or {}),
        privacy=[f"{plain_text(words)}." for words in privacy_in_words(summary.privacy, summary.defence)],
        receipt=receipt_rows(summary.loading or []),
        versions=[(plain_text(name), plain_text(number)) for name, number in (summary.versions or {}).items()],
        command=command,
        notes=notes,
    )


def server_rows(server: Mapping[str, Any]) -> list[list[str]]:
    """Return for each server: address, peak memory, seconds that it computed and was waited for, bytes sent and received."""
    rows = []
    for values in list((run_figures.as_mapping(server.get("parties")) or {"": server}).values())[: len(run_figures.PHASES)]:
        one = run_figures.as_mapping(values)
        sizes, times = ("peak_rss_bytes", "sent_bytes", "received_bytes"), ("computed_s", "waited_s")
        figures = {key: run_figures.as_figure(one.get(key)) for key in (*sizes, *times)}
        peak, sent, received = ("" if figures[key] is None else format_bytes(figures[key] or 0.0) for key in sizes)
        computed, waited = ("" if figures[key] is None else f"{figures[key]:.2f}" for key in times)
        if one.get("address"):
            rows.append([plain_text(one["address"]), peak, computed, waited, sent, received])
    return rows


def receipt_rows(loading: Sequence[Any]) -> list[list[str]]:
    """Return what loading the parts cost: part, what it holds, files, bytes needed and read, seconds."""
    rows = []
    for part in loading[: len(run_figures.PHASES)]:
        values = run_figures.as_mapping(part)
        shards = values.get("shards")
        sizes = [
            run_figures.as_figure(values.get(key)) for key in ("needed_bytes", "read_bytes", "mapped_bytes", "downloaded_bytes")
        ]
        seconds = run_figures.as_figure(values.get("seconds"))
        rows.append(
            [
                plain_text(values.get("part", "")),
                plain_text(values.get("holds", "")),
                str(len(shards)) if isinstance(shards, list) else "",
                *("" if size is None else format_bytes(size) for size in sizes),
                "" if seconds is None else f"{seconds:.2f}",
            ]
        )
    return rows


def _render(template: str, plots: dict[str, go.Figure], **words: Any) -> str:
    environment = Environment(
        loader=PackageLoader("splitlearn.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates = Path(__file__).parent / "templates"
    # Of this package and of the plotting library; everything else is escaped.
    own = Markup((templates / "page.js").read_text(encoding="utf-8"))  # noqa: S704
    library = Markup(get_plotlyjs())  # noqa: S704
    style = Markup((templates / "page.css").read_text(encoding="utf-8"))  # noqa: S704
    return environment.get_template(template).render(
        **words,
        style=style,
        scripts=[library, own] if plots else [own],
        digests=[_digest(script) for script in ([library, own] if plots else [own])],
        figures_json=Markup(figures_json(plots)),  # noqa: S704
    )


def _digest(script: str) -> str:
    """Return the digest by which a page's policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode()}'"
