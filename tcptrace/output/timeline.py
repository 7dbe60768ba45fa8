"""Time lines in a terminal: an exchange as a row per stage, a connection as a row per thing that happened.

Colours are colours.TERMINAL; rich leaves them out for NO_COLOR and whatever is no terminal, and nothing is
said by colour alone. Bars take what the words leave of the terminal's width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tcptrace.analysis.course import Course, End, Gap, Happening, Omission, Passage
from tcptrace.analysis.stages import GROUPS, UNATTRIBUTED
from tcptrace.analysis.timeline import Bar, ExchangeLine, Span, Turn
from tcptrace.output import timeline_words as words
from tcptrace.output.colours import LETTERS, TERMINAL
from tcptrace.output.escape import visible
from tcptrace.output.listing import instant_text
from tcptrace.output.report_text import share
from tcptrace.output.stage_words import group_name, stage_name
from tcptrace.units import UNKNOWN, format_duration

WIDEST = 160  # a longer bar says no more
NARROWEST = 12
_MARGIN = 26  # before what happened: when, and how long it took
_BLOCKS = "█▒░▏"
_WEIGHTS: dict[type, str] = {Happening: "bold", End: "bold", Omission: "dim", Gap: "dim"}


def print_exchange(out: Console, line: ExchangeLine, ends: Mapping[int, Mapping[str, Any]]) -> None:
    """One exchange, and the other end's view of it below. ends: connection_id -> row of `connections`."""
    own, other = line.own, line.other
    _heading(out, f"Exchange {own.connection_id}.{own.seq}, {own.side or UNKNOWN}", own, ends)
    _say(out, f"{instant_text(own.started_ns)} UTC, took {format_duration(own.total_ns)}")
    _tell(out, "; ".join(words.turn_facts(own)))
    layout = _layout(out, line)
    _turn_bars(out, own, 0, layout)
    for event in line.events:
        _tell(out, f"{format_duration(event.at_ns - own.started_ns)}: {words.event_words(event)}", "bold")
    _remarks(out, own, alone=other is None)
    if other is None:
        return
    out.print()
    _heading(out, f"Its other end: {other.connection_id}.{other.seq}, {other.side or UNKNOWN}", other, ends)
    began = f"{format_duration(abs(line.other_start_ns))} {'earlier' if line.other_start_ns < 0 else 'later'}"
    _say(out, f"took {format_duration(other.total_ns)}, began {began}")
    _turn_bars(out, other, line.other_start_ns, layout)
    _remarks(out, other, alone=False)
    if note := words.placement_note(line):
        _tell(out, note, "dim")


def print_course(out: Console, course: Course) -> None:
    """One connection from its start to its end."""
    connection = course.connection
    _title(out, f"Connection {connection['connection_id']}: {words.connection_title(connection)}")
    _tell(out, "; ".join(words.course_summary(course)))
    out.print()

    passages = [entry for entry in course.entries if isinstance(entry, Passage)]
    width = max((cell_len(words.passage_words(each.turn)) for each in passages), default=0)
    room = _room(out, 2 + _MARGIN + width + 2)
    _say(out, _columns("AT", "TAKES", "WHAT"), "dim")
    for entry in course.entries:
        at, takes = format_duration(entry.start_ns), words.entry_takes(entry)
        for what in wrap(visible(words.entry_words(entry)), max(NARROWEST, out.width - _MARGIN - 2)):
            text = Text(_columns(at, takes, ""))
            text.append(what, _WEIGHTS.get(type(entry), ""))
            if isinstance(entry, Passage):
                text.append(" " * (_MARGIN + width + 2 - cell_len(text.plain)))
                text.append(_strip(entry.turn, course.longest_ns, room))
            _say(out, text)
            at = takes = ""
    if course.states:
        out.print()
        _say(out, _columns("AT", "TAKES", "STATE"), "dim")
        for state in course.states:
            at = UNKNOWN if state.start_ns is None else format_duration(state.start_ns)
            _say(out, _columns(at, format_duration(state.duration_ns), state.name))
    if held := words.held_words(course.held):
        _tell(out, f"unsent bytes were held, over the whole connection: {', '.join(held)}")
    _legend(out, {bar.group for each in passages for bar in each.turn.bars if bar.duration_ns})


def _columns(at: str, takes: str, what: str) -> str:
    return f"{at:>11}  {takes:>11}  {what}"


def _strip(turn: Turn, longest_ns: int, room: int) -> Text:
    """A turn as letters of its groups in order, as long as its share of the longest turn."""
    cells = max(1, round(room * turn.total_ns / longest_ns)) if longest_ns else 1
    made = Text()
    for cell in range(cells):
        low, high = cell * turn.total_ns, (cell + 1) * turn.total_ns
        owned = [
            (sum(_common(span, low, high, cells) for span in bar.spans), number)
            for number, bar in enumerate(turn.bars)
        ]
        most, number = max(owned, key=lambda each: (each[0], -each[1]), default=(0, 0))
        if most:
            group = turn.bars[number].group
            made.append(LETTERS[group], _letter(group))
    return made


def _common(span: Span, low: int, high: int, cells: int) -> int:
    """What a span and a cell have in common; low and high are the cell's edges times the number of cells."""
    return max(0, min(span.end_ns * cells, high) - max(span.start_ns * cells, low))


def _letter(group: str) -> Style:
    colour = TERMINAL[group]
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 130
    return Style(color="#000000" if bright else "#ffffff", bgcolor=colour)


def _legend(out: Console, groups: set[str]) -> None:
    if not groups:
        return
    out.print()
    text = Text()
    for group in (each for each in GROUPS if each in groups):
        name = group_name(group)
        if text and cell_len(text.plain) + len(name) + 6 > out.width:
            _say(out, text)
            text = Text()
        text.append("  " if text else "")
        text.append(LETTERS[group], _letter(group))
        text.append(f" {name}")
    _say(out, text)


@dataclass(frozen=True)
class _Layout:
    """What the bars of both ends share: the widths of the columns before them, their room, their axis."""

    widths: tuple[int, ...]
    room: int
    low_ns: int
    length_ns: int
    marks: str


def _layout(out: Console, line: ExchangeLine) -> _Layout:
    cells = [("STAGE", "AT", "TAKES", "SHARE"), *_stage_cells(line.own, 0)]
    if line.other:
        cells += _stage_cells(line.other, line.other_start_ns)
    widths = tuple(max(map(cell_len, column)) for column in zip(*cells, strict=True))
    room = _room(out, sum(widths) + 2 * len(widths) + 2)
    return _Layout(widths, room, line.low_ns, max(1, line.high_ns - line.low_ns), _marks(out))


def _stage_cells(turn: Turn, start_ns: int) -> list[tuple[str, ...]]:
    """Name, start, duration and share of each stage that took time."""
    return [
        (
            stage_name(bar.stage),
            format_duration(start_ns + bar.start_ns),
            words.bar_takes(bar),
            share(bar.duration_ns, turn.total_ns),
        )
        for bar in turn.bars
        if bar.duration_ns
    ]


def _turn_bars(out: Console, turn: Turn, start_ns: int, layout: _Layout) -> None:
    """A row for each stage that took time."""
    _say(out, _aligned(("STAGE", "AT", "TAKES", "SHARE"), layout.widths), "dim")
    bars = [bar for bar in turn.bars if bar.duration_ns]
    for bar, cells in zip(bars, _stage_cells(turn, start_ns), strict=True):
        text = Text(f"{_aligned(cells, layout.widths)}  ")
        text.append(_track(bar, start_ns, layout), TERMINAL[bar.group])
        _say(out, text)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first cell to the left, the others to the right."""
    gaps = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
    rest = zip(gaps[1:], cells[1:], strict=True)
    return f"{cells[0]}{gaps[0]}" + "".join(f"  {gap}{cell}" for gap, cell in rest)


def _track(bar: Bar, start_ns: int, layout: _Layout) -> str:
    """The bar's place in its room; what is too short for a cell is a thin mark."""
    full, estimated, unattributed, thin = tuple(layout.marks)
    room, length = layout.room, layout.length_ns
    mark = unattributed if bar.stage == UNATTRIBUTED else estimated if bar.estimated else full
    cells = [" "] * room
    for span in bar.spans:
        if not span.duration_ns:
            continue
        low = (start_ns + span.start_ns - layout.low_ns) * room
        high = low + span.duration_ns * room
        # The cells whose middle lies in the span.
        first, last = (2 * low + length) // (2 * length), (2 * high + length) // (2 * length)
        if first < last:
            cells[first:last] = mark * (last - first)
        else:
            cells[min(low // length, room - 1)] = thin
    return "".join(cells).rstrip()


def _remarks(out: Console, turn: Turn, *, alone: bool) -> None:
    if zero := words.zero_stages(turn):
        _tell(out, f"no time: {', '.join(zero)}", "dim")
    for names, why in words.unknown_stages(turn):
        _tell(out, f"not known: {names} ({why})")
    for note in words.turn_notes(turn, alone=alone):
        _tell(out, note, "dim")


def _heading(out: Console, text: str, turn: Turn, ends: Mapping[int, Mapping[str, Any]]) -> None:
    connection = ends.get(turn.connection_id)
    _title(out, text if connection is None else f"{text}: {words.connection_title(connection)}")


def _marks(out: Console) -> str:
    """Full, estimated, unattributed, thin: characters that the terminal has."""
    try:
        _BLOCKS.encode(out.encoding)
    except (UnicodeError, LookupError):
        return "#=.|"
    return _BLOCKS


def _room(out: Console, taken: int) -> int:
    return min(WIDEST, max(NARROWEST, out.width - taken))


def _title(out: Console, text: str) -> None:
    for number, line in enumerate(wrap(visible(text), max(NARROWEST, out.width - 2))):
        out.print(Text(f"{'  ' if number else ''}{line}", "bold"))


def _say(out: Console, text: str | Text, style: str = "") -> None:
    """An indented line; a string is escaped here."""
    made = Text("  ")
    made.append(text if isinstance(text, Text) else Text(visible(text), style))
    made.rstrip()
    out.print(made)


def _tell(out: Console, sentence: str, style: str = "") -> None:
    """A sentence, indented, on as many lines as it needs."""
    for number, line in enumerate(wrap(visible(sentence), max(NARROWEST, out.width - 4))):
        _say(out, f"{'  ' if number else ''}{line}", style)
