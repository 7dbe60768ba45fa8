"""Figures of the report: the JSON that plotly.js draws, from pandas columns, aggregated so that a browser
draws hundreds of marks, never one per connection.

Colours are the light theme's. The page replaces them by the dark theme's, so every colour of a figure must
be one of PALETTE.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tcptrace.output import colours
from tcptrace.output.report_text import label
from tcptrace.units import format_count, format_duration

# Name -> (light, dark). The names are CSS variables too; the light values must differ from each other.
PALETTE = {
    "ink": ("#3d464e", "#c6ced5"),
    "grid": ("#e3e7ea", "#2b3238"),
    "card": ("#ffffff", "#191d21"),
    "active": ("#0b6e99", "#5bb5dd"),
    "passive": ("#c2600c", "#f0a257"),
    "unknown": ("#77818a", "#8d97a0"),
    "third": ("#7a4fa0", "#b995db"),
    "fourth": ("#2d7d57", "#6cc39a"),
    "fifth": ("#a8326e", "#e88bb9"),
    "heat0": ("#dcebf2", "#1b3543"),
    "heat1": ("#a5cde0", "#22566f"),
    "heat2": ("#559fc3", "#3286aa"),
    "heat3": ("#1d6f96", "#72bfe0"),
    "heat4": ("#0a3a58", "#dbf3ff"),
    **colours.PALETTE,
}
COLOUR = {name: light for name, (light, _) in PALETTE.items()}
SERIES = [COLOUR[name] for name in ("active", "passive", "third", "fourth", "fifth")]
FONT = 'ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif'

# {"data": traces, "layout": ...}. The plotly package would build and check the same in a second and more;
# the tests let it check them.
Figure = dict[str, Any]

CURVE_POINTS = 160
HEATMAP_COLUMNS, HEATMAP_ROWS = 96, 36


def figure(traces: Sequence[Any], height: int, **layout: Any) -> Figure:
    axis = {
        "gridcolor": COLOUR["grid"],
        "linecolor": COLOUR["grid"],
        "zerolinecolor": COLOUR["grid"],
        "zeroline": False,
        "automargin": True,
        "ticks": "",
        "fixedrange": False,
    }
    for key, value in layout.items():
        if key.startswith(("xaxis", "yaxis")):
            layout[key] = axis | value
    base: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 28, "b": 8},
        "font": {"family": FONT, "size": 12, "color": COLOUR["ink"]},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {
            "bgcolor": COLOUR["card"],
            "bordercolor": COLOUR["grid"],
            "font": {"color": COLOUR["ink"], "family": FONT},
        },
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "xaxis": axis,
        "yaxis": axis,
    }
    return {"data": list(traces), "layout": base | layout}


def scatter_trace(**properties: Any) -> dict[str, Any]:
    return {"type": "scatter", **properties}


def bar_trace(**properties: Any) -> dict[str, Any]:
    return {"type": "bar", **properties}


def heatmap_trace(**properties: Any) -> dict[str, Any]:
    return {"type": "heatmap", **properties}


def duration_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis of durations in ns, with ticks at powers of ten (1-2-5 in a short range)."""
    low, high = max(low, 1.0), max(high, low * 1.5, 1.5)
    first, last = math.log10(low) - 0.06, math.log10(high) + 0.06
    steps = (1, 2, 5) if last - first < 2.5 else (1,)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(first), math.ceil(last) + 1)
        for step in steps
        if first <= math.log10(step * 10.0**power) <= last
    ]
    return {
        "type": "log",
        "range": [first, last],
        "tickvals": ticks,
        "ticktext": [short_duration(tick) for tick in ticks],
    }


def short_duration(ns: float) -> str:
    for scale, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")):
        if ns >= scale:
            return f"{ns / scale:g} {unit}"
    return f"{ns:g} ns"


def nice_step(span: float, marks: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that covers a span with at most so many marks."""
    raw = max(span, 1e-9) / marks
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= raw * (1 - 1e-9))


def percentile_curve(
    series: Mapping[str, "pd.Series[float] | npt.NDArray[Any]"], styles: Sequence[tuple[str, str]]
) -> Figure:
    """Values against the share of them that is smaller, an equal distance for each further nine.

    series: name -> durations in ns without nulls, none of them empty, one of them above 0 at least. styles:
    colour and dash of each. Every point is a measured value; a logarithmic axis has no place for 0, so a
    curve begins where its values do.
    """
    lines, deepest = [], 1.0
    low, high = math.inf, 1.0
    for (name, values), (colour, dash) in zip(series.items(), styles, strict=True):
        ordered = np.sort(np.asarray(values, dtype=np.float64))
        n = len(ordered)
        depth = math.log10(2 * n)  # where the largest of n values is drawn
        deepest = max(deepest, depth)
        ranks = np.unique(
            np.ceil(n * (1 - 10 ** -np.linspace(0, depth, CURVE_POINTS))).clip(1, n).astype(int)
        )
        zeros = int(np.searchsorted(ordered, 0, side="right"))
        if 0 < zeros < n:
            ranks = np.concatenate([[zeros + 1], ranks[ranks > zeros + 1]])
        below = (ranks - 0.5) / n
        low, high = min(low, float(ordered[min(zeros, n - 1)])), max(high, float(ordered[-1]))
        lines.append(
            scatter_trace(
                x=(-np.log10(1 - below)).round(5).tolist(),
                y=ordered[ranks - 1].tolist(),
                name=label(name),
                mode="lines+markers" if n <= 20 else "lines",
                line={"color": colour, "width": 2.25, "dash": dash, "shape": "hv"},
                customdata=[
                    [
                        f"{100 * at:.6g}",
                        format_duration(value),
                        format_count(rank),
                        format_count(n),
                        label(name),
                    ]
                    for at, value, rank in zip(below, ordered[ranks - 1], ranks, strict=True)
                ],
                hovertemplate="%{customdata[4]}, p%{customdata[0]}: <b>%{customdata[1]}</b>"
                "<br>%{customdata[2]} of %{customdata[3]}<extra></extra>",
            )
        )
    marks = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
    shown = [mark for mark in marks if -math.log10(1 - mark) <= deepest]
    return figure(
        lines,
        340,
        xaxis={
            "tickvals": [-math.log10(1 - mark) for mark in shown],
            "ticktext": ["p50", "p90", "p99", "p99.9", "p99.99", "p99.999", "p99.9999"][: len(shown)],
            "range": [-0.02, deepest + 0.05],
        },
        yaxis=duration_axis(low, high),
        hovermode="closest",
        hoverdistance=80,
        showlegend=True,
    )


def latency_heatmap(
    series: Mapping[str, pd.DataFrame], span_s: float, column: str = "handshake_ns", what: str = "handshakes"
) -> Figure:
    """How many of which duration ended up in which moment, one panel per role or side, one colour scale.

    series: role -> frame with `start_s` and the column of durations, no nulls, none empty. span_s: of the
    recording. what: what is counted, in words.
    """
    low = max(1.0, min(float(frame[column].min()) for frame in series.values()))
    high = max(1.0, max(float(frame[column].max()) for frame in series.values()))
    high = max(high, low * 1.5)
    per_decade = min(24.0, HEATMAP_ROWS / max(math.log10(high / low), 0.4))
    first, last = math.floor(math.log10(low) * per_decade), math.floor(math.log10(high) * per_decade) + 1
    edges = 10 ** (np.arange(first, last + 1) / per_decade)
    span = max(span_s, max(float(frame["start_s"].max()) for frame in series.values()), 1e-3)
    step = nice_step(span, HEATMAP_COLUMNS)
    times = np.arange(0, math.ceil(span / step + 1e-9) + 1) * step
    panels, most, annotations = [], 1, []
    gap = 0.16 / max(len(series), 1)
    for number, (role, frame) in enumerate(series.items()):
        start = frame["start_s"].clip(lower=0, upper=times[-1])
        cells, _, _ = np.histogram2d(frame[column].clip(lower=1), start, bins=(edges, times))
        most = max(most, int(cells.max()))
        axis = "" if number == 0 else str(number + 1)
        shown = np.where(cells > 0, np.log10(np.maximum(cells, 1)), np.nan)
        bands = [
            f"{format_duration(edges[row])} to {format_duration(edges[row + 1])}"
            for row in range(len(edges) - 1)
        ]
        panels.append(
            heatmap_trace(
                x=times.round(9).tolist(),
                y=edges.tolist(),
                z=[[None if math.isnan(v) else round(v, 4) for v in row] for row in shown.tolist()],
                customdata=[
                    [[int(n), band] if n else None for n in row]
                    for row, band in zip(cells.tolist(), bands, strict=True)
                ],
                coloraxis="coloraxis",
                xaxis="x",
                yaxis=f"y{axis}",
                hoverongaps=False,
                hovertemplate=f"{label(role)}: <b>%{{customdata[0]}}</b> at %{{x:.4~g}} s<br>"
                "%{customdata[1]}<extra></extra>",
            )
        )
        top = 1 - number / len(series)
        annotations.append(
            {
                "text": label(role),
                "xref": "paper",
                "yref": "paper",
                "x": 0,
                "y": top - (gap / 2 if number else 0),
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 12, "color": COLOUR["ink"]},
            }
        )
    steps = (1, 2, 5) if most < 50 else (1,)
    ticks = [step * 10**power for power in range(8) for step in steps if step * 10**power <= max(most, 10)]
    layout: dict[str, Any] = {
        f"yaxis{'' if number == 0 else number + 1}": duration_axis(edges[0], edges[-1])
        | {
            "domain": [
                1 - (number + 1) / len(series) + (gap / 2 if number < len(series) - 1 else 0),
                1 - number / len(series) - (gap / 2 if number else 0),
            ]
        }
        for number in range(len(series))
    }
    return figure(
        panels,
        150 + 170 * len(series),
        **layout,
        xaxis={
            "title": {"text": "seconds since the recording began"},
            "range": [0, float(times[-1])],
            "anchor": f"y{len(series)}" if len(series) > 1 else "y",
        },
        coloraxis={
            "cmin": 0,
            "cmax": max(math.log10(most), 1),
            "colorscale": [[at / 4, COLOUR[f"heat{at}"]] for at in range(5)],
            "colorbar": {
                "title": {"text": what, "side": "right"},
                "tickvals": [math.log10(tick) for tick in ticks],
                "ticktext": [format_count(tick) for tick in ticks],
                "thickness": 10,
                "outlinewidth": 0,
            },
        },
        annotations=annotations,
    )
