"""The report: one self-contained HTML file from one or more recordings.

Nothing is fetched: styles, the script and plotly.js (compressed) are inside, and the page's
Content-Security-Policy lets run only those two scripts, by their hashes.
"""

import base64
import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from markupsafe import Markup

from tcptrace import __version__
from tcptrace.analysis.clocks import Clock
from tcptrace.analysis.join import Joined
from tcptrace.analysis.stages import GROUPS
from tcptrace.output import figures, report_rows, report_text, report_views, timeline_html
from tcptrace.output.pages import environment, with_code
from tcptrace.output.report_chapter import Chapter, Material, chapter
from tcptrace.output.report_frame import Quantiles, connection_frame, event_frame, quantiles
from tcptrace.output.report_health import Health, health
from tcptrace.output.report_join import join_view
from tcptrace.resources import reports_dir
from tcptrace.trace.reader import Trace


@dataclass(frozen=True)
class Recording:
    """A trace and its tables; without exchanges and their sums, the page has no budget."""

    trace: Trace
    connections: pa.Table
    exchanges: pa.Table | None = None
    sums: pa.Table | None = None


@dataclass(frozen=True)
class View:
    """Everything the page shows of one recording."""

    key: str
    health: Health
    chapter: Chapter | None
    rows: int
    active: Quantiles
    passive: Quantiles
    failed: int
    attempts: int
    handshakes: report_views.Handshakes
    states: report_views.States
    teardown: report_views.Teardown
    retransmits: report_views.Retransmits
    slowest: report_rows.Slowest
    remotes: report_rows.Remotes


def render(recordings: Sequence[Recording], joined: Joined | None = None) -> str:
    """The page as text, to be encoded in UTF-8.

    joined: the recordings as one, in the same order. If any connection has its ends in two of them, there is
    one budget of all; else each has its own.

    Raises TcptraceError when the templates are missing from this installation.
    """
    packed, plotly_hash = _plotly()  # first: without plotly, all that follows would be in vain
    together = joined if joined is not None and joined.pairs else None
    views, frames = [], []
    for number, recording in enumerate(recordings, 1):
        facts = health(recording.trace)
        frame = connection_frame(recording.connections, facts.start_ns)
        events = event_frame(recording.trace.events, facts.start_monotonic_ns)
        own = None if together else _chapter(f"t{number}", recording, facts)
        views.append(_view(f"t{number}", facts, frame, events, own))
        frames.append(frame)
    facts_of = [view.health for view in views]
    budget = _joined_chapter(together, recordings, facts_of) if together else None
    drawings = _everything(views)
    drawings |= budget.drawings() if budget else {}
    drawings["overview"] = _overview(views, frames) if len(views) > 1 else None
    shown = {name: figure for name, figure in drawings.items() if figure is not None}

    directory = reports_dir()
    script = (directory / "report.js").read_text(encoding="utf-8")
    return (
        environment(directory)
        .get_template("report.html.j2")
        .render(
            version=__version__,
            views=views,
            figures=set(shown),
            groups=GROUPS,
            chapter=budget,
            joined=join_view(together, [one.name for one in facts_of]) if together else None,
            no_budget=with_code(report_text.NO_BUDGET),
            palette=figures.PALETTE,
            script_hashes=f"{_hash(script.encode())} {plotly_hash}",
            style=Markup((directory / "report.css").read_text(encoding="utf-8")) + timeline_html.style(),
            script=Markup(script),
            plotly=Markup(packed),
            data=Markup(
                report_text.script_json(
                    {
                        "figures": shown,
                        "dark": dict(figures.PALETTE.values()),
                    }
                )
            ),
        )
    )


def _chapter(key: str, recording: Recording, facts: Health) -> Chapter | None:
    """None for a recording without a budget: one that was told so, or is of an older tcptrace."""
    exchanges, sums = recording.exchanges, recording.sums
    if exchanges is None or sums is None:
        return None
    patterns = recording.connections["pattern"]
    if not exchanges.num_rows and not sums.num_rows and patterns.null_count == len(patterns):
        return None
    span_s = (facts.duration_ns or 0) / 1e9
    tables = recording.connections, exchanges, sums
    return chapter(key, Material(*tables, [recording.trace], [Clock(0)], facts.start_ns, span_s))


def _joined_chapter(
    joined: Joined, recordings: Sequence[Recording], facts: Sequence[Health]
) -> Chapter | None:
    """One budget of all recordings, on the time line of the first; None when none of them has any."""
    if not joined.exchanges.num_rows and not joined.sums.num_rows:
        return None
    starts = [
        int(clock.shifted(np.array([one.start_ns], np.int64))[0])
        for clock, one in zip(joined.clocks, facts, strict=True)
    ]
    last = max(start + (one.duration_ns or 0) for start, one in zip(starts, facts, strict=True))
    traces = [recording.trace for recording in recordings]
    span_s = (last - min(starts)) / 1e9
    tables = joined.connections, joined.exchanges, joined.sums
    return chapter("all", Material(*tables, traces, joined.clocks, min(starts), span_s))


def _view(key: str, facts: Health, frame: pd.DataFrame, events: pd.DataFrame, budget: Chapter | None) -> View:
    span_s = (facts.duration_ns or 0) / 1e9
    by_role = {role: frame[frame["role"] == role]["handshake_ns"] for role in ("active", "passive")}
    return View(
        key=key,
        health=facts,
        chapter=budget,
        rows=len(frame),
        active=quantiles(by_role["active"]),
        passive=quantiles(by_role["passive"]),
        failed=int(((frame["role"] == "active") & frame["close_reason"].isin(report_views.FAILED)).sum()),
        attempts=len(by_role["active"]),
        handshakes=report_views.handshakes(frame, span_s),
        states=report_views.states(frame),
        teardown=report_views.teardown(frame),
        retransmits=report_views.retransmits(frame, events, span_s, facts.drop_reasons, facts.reset_reasons),
        slowest=report_rows.slowest(frame),
        remotes=report_rows.remotes(frame),
    )


def _drawings(view: View) -> dict[str, Any]:
    return {
        "curve": view.handshakes.curve,
        "heatmap": view.handshakes.heatmap,
        "states": view.states.figure,
        "teardown": view.teardown.figure,
        "timeline": view.retransmits.figure,
    }


def _everything(views: Sequence[View]) -> dict[str, Any]:
    """Name -> figure, of every recording."""
    drawings = {f"{view.key}-{name}": figure for view in views for name, figure in _drawings(view).items()}
    for view in views:
        drawings |= view.chapter.drawings() if view.chapter else {}
    return drawings


def _overview(views: Sequence[View], frames: Sequence[pd.DataFrame]) -> Any | None:
    """Percentile curves of all recordings in one figure: solid lines for active ends, dotted for passive."""
    curves, styles = {}, []
    for number, (view, frame) in enumerate(zip(views, frames, strict=True)):
        for role, dash in (("active", "solid"), ("passive", "dot")):
            known = frame[frame["role"] == role]["handshake_ns"].dropna()
            if len(known):
                curves[f"{view.key[1:]}. {view.health.name}, {role}"] = known
                styles.append((figures.SERIES[number % len(figures.SERIES)], dash))
    return figures.percentile_curve(curves, styles) if curves else None


@cache
def _plotly() -> tuple[str, str]:
    """plotly.js, gzipped in base64 (2 MB instead of 4.8), and the hash of what the page unpacks it to."""
    source = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, 6, mtime=0)).decode("ascii"), _hash(source)


def _hash(script: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode('ascii')}'"
