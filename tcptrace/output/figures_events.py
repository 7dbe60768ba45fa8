"""Figures of what happened: time in each state, how connections ended, retransmissions over time."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tcptrace.output.figures import (
    COLOUR,
    Figure,
    bar_trace,
    duration_axis,
    figure,
    nice_step,
    scatter_trace,
)
from tcptrace.output.report_frame import Quantiles
from tcptrace.output.report_text import label
from tcptrace.units import format_count, format_duration

TIMELINE_BARS = 90
ROLE_COLOUR = {"active": COLOUR["active"], "passive": COLOUR["passive"], "unknown": COLOUR["unknown"]}
INITIATOR_COLOUR = {
    "local": COLOUR["fourth"],
    "remote": COLOUR["third"],
    "simultaneous": COLOUR["fifth"],
    "not known": COLOUR["unknown"],
}
EVENT_COLOUR = {
    "SYN": COLOUR["active"],
    "SYN-ACK": COLOUR["passive"],
    "data and FIN": COLOUR["third"],
    "drop": COLOUR["unknown"],
}


def state_ranges(rows: Sequence[tuple[str, str, Quantiles]]) -> Figure:
    """One line per state and role, at least one: from the smallest to the largest time, the middle half
    thicker, a dot at the median. rows: (state, role, quantiles with n > 0), in the order of reading."""
    names = list(dict.fromkeys(state for state, _, _ in rows))
    roles = [role for role in ROLE_COLOUR if any(row[1] == role for row in rows)]
    traces = []
    for number, role in enumerate(roles):
        shift = (number - (len(roles) - 1) / 2) * 0.26
        thin_x: list[float | None] = []
        thick_x: list[float | None] = []
        line_y: list[float | None] = []
        own = [(names.index(state), state, q) for state, row_role, q in rows if row_role == role]
        for place, _, q in own:
            thin_x += [max(q.min or 0, 1), max(q.max or 0, 1), None]
            thick_x += [max(q.p25 or 0, 1), max(q.p75 or 0, 1), None]
            line_y += [place + shift, place + shift, None]
        shared = {"legendgroup": role, "hoverinfo": "skip", "showlegend": False, "mode": "lines"}
        colour = ROLE_COLOUR[role]
        traces += [
            scatter_trace(x=thin_x, y=line_y, line={"color": colour, "width": 1.25}, **shared),
            scatter_trace(x=thick_x, y=line_y, line={"color": colour, "width": 7}, opacity=0.45, **shared),
            scatter_trace(
                x=[max(q.p50 or 0, 1) for _, _, q in own],
                y=[place + shift for place, _, _ in own],
                name=label(role),
                legendgroup=role,
                mode="markers",
                marker={"color": colour, "size": 9, "line": {"color": COLOUR["card"], "width": 1.5}},
                customdata=[
                    [
                        label(state),
                        format_count(q.n),
                        *map(format_duration, (q.p50, q.p25, q.p75, q.min, q.max)),
                    ]
                    for _, state, q in own
                ],
                hovertemplate=f"<b>%{{customdata[0]}}</b>, {role}, %{{customdata[1]}} connections<br>"
                "median %{customdata[2]}<br>middle half %{customdata[3]} to %{customdata[4]}<br>"
                "from %{customdata[5]} to %{customdata[6]}<extra></extra>",
            ),
        ]
    return figure(
        traces,
        80 + 44 * len(names),
        xaxis=duration_axis(min(q.min or 0 for _, _, q in rows), max(q.max or 0 for _, _, q in rows)),
        yaxis={
            "tickvals": list(range(len(names))),
            "ticktext": [label(name) for name in names],
            "range": [len(names) - 0.4, -0.6],
            "showgrid": False,
        },
        hovermode="closest",
        showlegend=True,
    )


def close_reasons(table: pd.DataFrame) -> Figure:
    """Stacked bars. table: one row per close reason, one column per initiator of INITIATOR_COLOUR, counts."""
    traces = [
        bar_trace(
            orientation="h",
            x=table[name].tolist(),
            y=[label(str(reason)) for reason in table.index],
            name=label(name),
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="<b>%{x:,}</b> %{y}, first to close: " + label(name) + "<extra></extra>",
        )
        for name, colour in INITIATOR_COLOUR.items()
        if table[name].any()
    ]
    return figure(
        traces,
        84 + 34 * len(table),
        barmode="stack",
        bargap=0.35,
        xaxis={"rangemode": "tozero", "tickformat": ",~d"},
        yaxis={"autorange": "reversed", "showgrid": False},
        showlegend=True,
    )


def events_over_time(events: pd.DataFrame, span_s: float) -> Figure:
    """Stacked bars of events per interval. events: `time_s` and `name` (a key of EVENT_COLOUR), not empty."""
    step = nice_step(max(span_s, float(events["time_s"].max()), 1e-3), TIMELINE_BARS)
    places = np.floor(events["time_s"].clip(lower=0) / step).astype(int)
    bars = math.floor(max(span_s / step, float(places.max()))) + 1
    traces = []
    for name, colour in EVENT_COLOUR.items():
        counts = np.bincount(places[events["name"] == name], minlength=bars)
        if not counts.any():
            continue
        used = np.flatnonzero(counts)
        traces.append(
            bar_trace(
                x=((used + 0.5) * step).round(9).tolist(),
                y=counts[used].tolist(),
                width=step * 0.9,
                name=label(name),
                marker={"color": colour, "line": {"width": 0}},
                customdata=[[f"{place * step:.6g}", f"{(place + 1) * step:.6g}"] for place in used.tolist()],
                hovertemplate=f"<b>%{{y:,}}</b> {label(name)}, "
                "%{customdata[0]} to %{customdata[1]} s<extra></extra>",
            )
        )
    return figure(
        traces,
        270,
        barmode="stack",
        xaxis={
            "title": {"text": "seconds since the recording began"},
            "range": [0, max(span_s, bars * step)],
        },
        yaxis={"rangemode": "tozero", "tickformat": ",~d", "title": {"text": f"per {step:g} s"}},
        showlegend=True,
    )
