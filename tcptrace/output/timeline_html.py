"""Time lines as parts of a page: tables whose last column is an axis. No script; every text is escaped.

The page has the variables and classes of groups (colours.PALETTE as --NAME, .g-NAME with that background) and
the style sheet of style().
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from tcptrace.analysis.course import Course, Entry, Passage
from tcptrace.analysis.stages import UNATTRIBUTED
from tcptrace.analysis.timeline import ExchangeLine, Turn
from tcptrace.output import timeline_words as words
from tcptrace.output.listing import instant_text
from tcptrace.output.pages import environment
from tcptrace.output.report_text import share
from tcptrace.output.stage_words import group_name, stage_meaning, stage_name
from tcptrace.resources import reports_dir
from tcptrace.units import UNKNOWN, format_duration

TICKS = 5  # at most, on one axis


@dataclass(frozen=True)
class Piece:
    """A bar on an axis, in percent of its length. look: estimated, unattributed, or nothing special."""

    left: str
    width: str
    group: str
    look: str
    title: str


@dataclass(frozen=True)
class StageRow:
    name: str
    meaning: str
    at: str
    takes: str
    estimated: bool
    share: str
    pieces: list[Piece]


@dataclass(frozen=True)
class EndView:
    """One end of an exchange: its heading, facts, rows on the common axis, and what limits them."""

    heading: str
    facts: list[str]
    rows: list[StageRow]
    events: list[tuple[str, str, str]]
    zero: list[str]
    unknown: list[tuple[str, str]]
    notes: list[str]


@dataclass(frozen=True)
class Tick:
    """text is empty where the axis ends before it would."""

    left: str
    text: str


def exchange_html(line: ExchangeLine, ends: Mapping[int, Mapping[str, Any]]) -> Markup:
    """The time line of an exchange. ends: connection_id -> its row of the table `connections`, or of that of
    joined recordings: then the exchange is named by its recording's own id."""
    axis = _Axis(line.low_ns, max(1, line.high_ns - line.low_ns))
    shown = [_end(line.own, 0, line, axis, ends)]
    if line.other is not None:
        shown.append(_end(line.other, line.other_start_ns, line, axis, ends))
    return _rendered(
        "exchange",
        shown=shown,
        ticks=axis.ticks(),
        caption=f"Exchange {_name(line.own, ends)}",
    )


def course_html(course: Course) -> Markup:
    """A connection from its start to its end."""
    longest = max(1, course.longest_ns)
    entries = [
        (
            format_duration(entry.start_ns),
            words.entry_takes(entry),
            words.entry_words(entry),
            type(entry).__name__.lower(),
            _strip(entry, longest),
        )
        for entry in course.entries
    ]
    length = course.duration_ns or max([entry.start_ns for entry in course.entries], default=0)
    axis = _Axis(0, max(1, length))
    states = [
        (
            state.name,
            UNKNOWN if state.start_ns is None else format_duration(state.start_ns),
            format_duration(state.duration_ns),
            [] if state.start_ns is None else [axis.piece(state.start_ns, state.duration_ns, "", "", "")],
        )
        for state in course.states
    ]
    name = f"Connection {course.connection['connection_id']}"
    return _rendered(
        "course",
        caption=f"{name}: {words.connection_title(course.connection)}",
        summary=words.course_summary(course),
        entries=entries,
        states=states,
        ticks=axis.ticks(),
        held=words.held_words(course.held),
    )


@cache
def style() -> Markup:
    """The style sheet of time lines."""
    return Markup((reports_dir() / "timeline.css").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class _Axis:
    low_ns: int
    length_ns: int

    def percent(self, ns: int) -> str:
        """How far along the axis, within it."""
        return f"{min(100.0, max(0.0, 100 * (ns - self.low_ns) / self.length_ns)):.3f}"

    def piece(self, start_ns: int, duration_ns: int, group: str, look: str, title: str) -> Piece:
        width = f"{min(100.0, 100 * duration_ns / self.length_ns):.3f}"
        return Piece(self.percent(start_ns), width, group, look, title)

    def ticks(self) -> list[Tick]:
        """At multiples of 1, 2 or 5 times a power of ten, counted from the exchange's own start."""
        power = 10 ** max(0, math.floor(math.log10(max(1, self.length_ns / TICKS))))
        step = next(times * power for times in (1, 2, 5, 10) if times * power * TICKS >= self.length_ns)
        first = -(-self.low_ns // step)
        last = (self.low_ns + self.length_ns) // step
        places = [at * step for at in range(first, last + 1)]
        near = self.low_ns + self.length_ns * 9 // 10
        return [Tick(self.percent(at), "" if at > near else _tick_text(at)) for at in places]


def _tick_text(ns: int) -> str:
    """A round number of ns, µs, ms or s."""
    for scale, unit in ((10**9, "s"), (10**6, "ms"), (10**3, "µs")):
        if abs(ns) >= scale:
            return f"{ns / scale:g} {unit}"
    return f"{ns} ns" if ns else "0"


def _end(
    turn: Turn, start_ns: int, line: ExchangeLine, axis: _Axis, ends: Mapping[int, Mapping[str, Any]]
) -> EndView:
    own = turn is line.own
    connection = ends.get(turn.connection_id)
    who = "" if connection is None else f": {words.connection_title(connection)}"
    name = f"{_name(turn, ends)}, {turn.side or UNKNOWN} end"
    facts = [f"{instant_text(turn.started_ns)} UTC" if own else _began(start_ns)]
    facts += [f"took {format_duration(turn.total_ns)}", *words.turn_facts(turn)]
    notes = words.turn_notes(turn, alone=line.other is None)
    if not own and (note := words.placement_note(line)):
        notes.append(note)
    events = [
        (
            words.event_words(event),
            format_duration(event.at_ns - turn.started_ns),
            axis.percent(event.at_ns - turn.started_ns),
        )
        for event in (line.events if own else ())
    ]
    return EndView(
        heading=f"{'Exchange' if own else 'Its other end,'} {name}{who}",
        facts=facts,
        rows=_stage_rows(turn, start_ns, axis),
        events=events,
        zero=words.zero_stages(turn),
        unknown=words.unknown_stages(turn),
        notes=[_sentence(note) for note in notes],
    )


def _name(turn: Turn, ends: Mapping[int, Mapping[str, Any]]) -> str:
    """The ID that `tcptrace show` takes, and of which recording."""
    row = ends.get(turn.connection_id, {})
    if "trace_connection_id" not in row:
        return f"{turn.connection_id}.{turn.seq}"
    return f"{row['trace_connection_id']}.{turn.seq} of recording {row['trace'] + 1}"


def _sentence(note: str) -> str:
    """With the capital and the full stop of prose, and the mark for estimates that pages have."""
    marked = note.replace("~", "≈", 1) if note.startswith("~") else note
    return f"{marked[:1].upper()}{marked[1:]}."


def _began(start_ns: int) -> str:
    return f"began {format_duration(abs(start_ns))} {'earlier' if start_ns < 0 else 'later'}"


def _stage_rows(turn: Turn, start_ns: int, axis: _Axis) -> list[StageRow]:
    """A row for each stage that took time."""
    rows = []
    for bar in turn.bars:
        if not bar.duration_ns:
            continue
        look = "rest" if bar.stage == UNATTRIBUTED else "est" if bar.estimated else ""
        takes = format_duration(bar.duration_ns)
        title = f"{stage_name(bar.stage)} {'≈ ' if bar.estimated else ''}{takes}"
        rows.append(
            StageRow(
                name=stage_name(bar.stage),
                meaning=stage_meaning(bar.stage),
                at=format_duration(start_ns + bar.start_ns),
                takes=takes,
                estimated=bar.estimated,
                share=share(bar.duration_ns, turn.total_ns),
                pieces=[
                    axis.piece(start_ns + span.start_ns, span.duration_ns, bar.group, look, title)
                    for span in bar.spans
                ],
            )
        )
    return rows


def _strip(entry: Entry, longest_ns: int) -> list[Piece]:
    """A turn's stages on one axis, the longest turn being as long as it."""
    if not isinstance(entry, Passage):
        return []
    axis = _Axis(0, longest_ns)
    return [
        axis.piece(
            span.start_ns,
            span.duration_ns,
            bar.group,
            "rest" if bar.stage == UNATTRIBUTED else "est" if bar.estimated else "",
            f"{group_name(bar.group)} {format_duration(bar.duration_ns)}",
        )
        for bar in entry.turn.bars
        for span in bar.spans
        if span.duration_ns
    ]


@cache
def _template() -> Template:
    return environment(reports_dir()).get_template("timeline.html.j2")


def _rendered(macro: str, **values: Any) -> Markup:
    made: Markup = getattr(_template().module, macro)(values)
    return made
