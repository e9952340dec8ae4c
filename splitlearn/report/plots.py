"""What all plots share: colours, layout, and text that the plotting library takes for text alone."""

from __future__ import annotations

import html
import json
from typing import Any

import plotly.graph_objects as go

# Okabe and Ito's colours, without those that vanish on white or on black; dashes tell lines apart that have the same one.
LINE_COLORS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot")
# Readable on white as on black.
GREY = "#808890"
MARKED = "#D55E00"
# Perceptually uniform, and the same to people who are colour-blind.
HEAT = "Cividis"


def plot_text(text: object) -> str:
    """Return text that the plotting library shows as it is; it reads ``<b>`` and links as markup."""
    return html.escape(str(text), quote=False)


def line_style(number: int) -> dict[str, Any]:
    """Return colour and dashes of the line of that number; the first 20 differ."""
    dash = DASHES[number // len(LINE_COLORS) % len(DASHES)]
    return {"color": LINE_COLORS[number % len(LINE_COLORS)], "dash": dash, "width": 2}


def new_figure(x_title: str, y_title: str, height: int = 360) -> go.Figure:
    """Return an empty figure without a background; the page's style gives text and grid their colours."""
    axis = {"gridcolor": GREY, "zeroline": False, "automargin": True, "title": {"standoff": 8}}
    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": 50, "r": 44, "t": 18, "b": 45},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
        hoverlabel={"bgcolor": "#1a1d21", "font": {"color": "#ffffff"}, "align": "left"},
        hovermode="closest",
        dragmode=False,
        legend={"orientation": "h", "y": -0.22, "bgcolor": "rgba(0,0,0,0)"},
    )
    figure.update_xaxes(**axis, title_text=plot_text(x_title))
    figure.update_yaxes(**axis, title_text=plot_text(y_title))
    return figure


def figures_json(figures: dict[str, go.Figure]) -> str:
    """Return figures as JSON that may stand in a script element: no text in it can end the element."""
    plain = {name: json.loads(figure.to_json(validate=False, engine="json")) for name, figure in figures.items()}
    for figure in plain.values():
        # The library's default template is as large as a small figure, and nothing of it is left to see.
        figure["layout"].pop("template", None)
    text = json.dumps(plain, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
