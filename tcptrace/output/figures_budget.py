"""Figures of the latency budget: stacked bars of what exchanges consist of.

One colour per group of stages, the same on every page; what is estimated is hatched in its group's colour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tcptrace.analysis.stages import GROUPS
from tcptrace.output import colours
from tcptrace.output.figures import COLOUR, Figure, bar_trace, figure, nice_step, short_duration
from tcptrace.output.report_text import label, share
from tcptrace.output.stage_words import group_name
from tcptrace.units import format_count, format_duration, plural

HEIGHT, BAR_HEIGHT = 56, 32
NAME_LENGTH = 26


@dataclass(frozen=True)
class Bar:
    """What some exchanges consist of, on average; which they are is in `name` and `detail`, not escaped.

    parts: group of stages -> mean ns, without groups that nothing observed; they add up to total_ns.
    estimated: groups whose part is estimated in some of the exchanges, namely estimated_of them.
    """

    name: str
    detail: str
    exchanges: int
    total_ns: int
    parts: Mapping[str, int]
    estimated: frozenset[str] = frozenset()
    estimated_of: int = 0


def group_colour(group: str) -> str:
    """The fixed colour of a group of stages, light theme."""
    return COLOUR[colours.variable(group)]


def stacked(bars: Sequence[Bar], *, shares: bool) -> Figure:
    """One horizontal bar per entry, from the top; at least one.

    shares: every bar as long as the others, so that small totals can be read beside large ones; else as
    long as its total.
    """
    longest = max(*(bar.total_ns for bar in bars), 1)
    traces = [
        _segment(group, hatched, bars, shares)
        for group in GROUPS
        for hatched in (False, True)
        if any(_part(bar, group, hatched) for bar in bars)
    ]
    totals = {
        "margin": {"l": 8, "r": 64, "t": 8, "b": 8},
        "annotations": [
            {
                "x": 100 if shares else bar.total_ns,
                "y": place,
                "text": format_duration(bar.total_ns),
                "xanchor": "left",
                "xshift": 6,
                "showarrow": False,
                "font": {"size": 12, "color": COLOUR["ink"]},
            }
            for place, bar in enumerate(bars)
        ],
    }
    return figure(
        traces,
        HEIGHT + BAR_HEIGHT * len(bars),
        **totals,
        barmode="stack",
        bargap=0.32,
        xaxis=_share_axis() if shares else _time_axis(longest),
        yaxis={
            "tickvals": list(range(len(bars))),
            "ticktext": [label(_short(bar.name)) for bar in bars],
            "range": [len(bars) - 0.45, -0.55],
            "showgrid": False,
        },
        hovermode="closest",
        showlegend=False,
    )


def over_time(moments: Sequence[tuple[int, int, Bar]], start_ns: int) -> Figure:
    """What the mean exchange consisted of, one upright bar per span of time.

    moments: (from, to, bar), wall clock in ns, ascending, at least one. start_ns: of the recording.
    """
    longest = max(*(bar.total_ns for *_, bar in moments), 1)
    spans = [((low - start_ns) / 1e9, (high - start_ns) / 1e9) for low, high, _ in moments]
    traces = []
    for group in GROUPS:
        values = [bar.parts.get(group, 0) for *_, bar in moments]
        if any(values):
            traces.append(
                bar_trace(
                    x=[round((low + high) / 2, 6) for low, high in spans],
                    width=[round((high - low) * 0.92, 6) for low, high in spans],
                    y=values,
                    name=group_name(group),
                    marker=_fill(group, any(group in bar.estimated for *_, bar in moments)),
                    customdata=[
                        [
                            format_duration(value),
                            f"{low:.6g}",
                            f"{high:.6g}",
                            plural(bar.exchanges, "exchange"),
                        ]
                        for value, (low, high), (*_, bar) in zip(values, spans, moments, strict=True)
                    ],
                    hovertemplate=f"<b>%{{customdata[0]}}</b> {group_name(group)}, mean of %{{customdata[3]}}"
                    "<br>%{customdata[1]} to %{customdata[2]} s<extra></extra>",
                )
            )
    return figure(
        traces,
        280,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        barmode="stack",
        xaxis={"title": {"text": "seconds since the recording began"}},
        yaxis=_time_axis(longest) | {"range": [0, longest * 1.04]},
        hovermode="closest",
        showlegend=False,
    )


def _segment(group: str, hatched: bool, bars: Sequence[Bar], shares: bool) -> dict[str, Any]:
    """The part of one group in each bar, or where it is hatched, of those bars in which it is estimated."""
    values = [_part(bar, group, hatched) for bar in bars]
    name = f"{group_name(group)} ≈" if hatched else group_name(group)
    return bar_trace(
        orientation="h",
        x=[
            round(100 * value / (bar.total_ns or 1), 4) if shares else value
            for value, bar in zip(values, bars, strict=True)
        ],
        y=list(range(len(bars))),
        name=name,
        marker=_fill(group, hatched),
        customdata=[
            [
                label(bar.name),
                format_duration(value),
                label(share(value, bar.total_ns)),
                label(bar.detail),
                f", estimated in {format_count(bar.estimated_of)}" if hatched else "",
                plural(bar.exchanges, "exchange"),
            ]
            for value, bar in zip(values, bars, strict=True)
        ],
        hovertemplate=f"<b>%{{customdata[1]}}</b> {group_name(group)}, "
        "%{customdata[2]} of %{customdata[0]}<br>mean of %{customdata[5]}%{customdata[4]}"
        "<br>%{customdata[3]}<extra></extra>",
    )


def _part(bar: Bar, group: str, hatched: bool) -> int:
    return bar.parts.get(group, 0) if (group in bar.estimated) == hatched else 0


def _short(name: str) -> str:
    """A name that leaves room for its bar, also on a phone; the table has all of it."""
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH // 2]}…{name[-NAME_LENGTH // 2 + 1 :]}"


def _fill(group: str, hatched: bool) -> dict[str, Any]:
    colour = group_colour(group)
    made: dict[str, Any] = {"color": colour, "line": {"width": 0}}
    if hatched:
        made["pattern"] = {
            "shape": "/",
            "size": 6,
            "solidity": 0.35,
            "fillmode": "replace",
            "fgcolor": COLOUR["card"],
            "bgcolor": colour,
        }
    return made


def _share_axis() -> dict[str, Any]:
    return {
        "range": [0, 100],
        "tickvals": [0, 25, 50, 75, 100],
        "ticktext": ["0", "25 %", "50 %", "75 %", "100 %"],
    }


def _time_axis(longest: int) -> dict[str, Any]:
    """A linear axis of durations."""
    step = nice_step(longest, 4)
    ticks = [step * number for number in range(int(longest / step) + 1)]
    return {
        "range": [0, longest],
        "tickvals": ticks,
        "ticktext": [short_duration(tick) if tick else "0" for tick in ticks],
    }
