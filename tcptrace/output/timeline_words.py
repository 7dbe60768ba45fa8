"""The words around a time line, the same in terminals and on pages. Escaping them is left to these."""

from collections.abc import Mapping, Sequence
from typing import Any

from tcptrace.analysis.columns import endpoint_text
from tcptrace.analysis.course import Course, End, Entry, Gap, Handshake, Happening, Omission, Passage
from tcptrace.analysis.happenings import Event
from tcptrace.analysis.stages import UNATTRIBUTED
from tcptrace.analysis.timeline import Bar, ExchangeLine, Turn
from tcptrace.output.listing import instant_text
from tcptrace.output.stage_words import stage_name
from tcptrace.units import UNKNOWN, format_count, format_duration, format_size, plural

_WAITS = {
    "first turn": "before the first exchange",
    "application": "idle: this end had nothing to send",
    "other end": "idle: the other end had nothing to send",
    "close": "idle until the close",
    "stream": "data without turns: a stream",
    "quiet": "no exchange was seen",
    "unknown": "not observed: no exchange was timed",
}
_ENDS = {
    "fin": "closed in order",
    "reset_sent": "reset by this end",
    "reset_received": "reset by the other end",
    "refused": "refused by the other end",
    "timeout": "timed out",
    "aborted": "aborted by this end before it was established",
    "open": "still open at the end of the recording",
    None: "ended, the reason was not seen",
}
_CLOSED_BY = {"local": "this end first", "remote": "the other end first", "simultaneous": "both at once"}
_WAYS = {"active": "to", "passive": "from"}


def connection_title(connection: Mapping[str, Any]) -> str:
    """`10.0.0.1:40001 to 10.0.0.2:5000, order-gw (4711)`; a row of the table `connections`."""
    local = endpoint_text(connection["local_addr"], connection["local_port"])
    remote = endpoint_text(connection["remote_addr"], connection["remote_port"])
    way = _WAYS.get(connection["role"], "and")
    pid, comm = connection["pid"], connection["comm"]
    return f"{local} {way} {remote}" + (f", {comm or UNKNOWN} ({pid})" if pid is not None else "")


def turn_facts(turn: Turn) -> list[str]:
    """What is known of a turn besides its stages, the most telling first."""
    facts = [
        f"{_size(turn.request_bytes)} asked in {plural(turn.writes, 'write')}"
        if turn.side == "client"
        else f"{_size(turn.request_bytes)} asked",
        f"{_size(turn.response_bytes)} answered in {plural(turn.reads, 'read')}"
        if turn.side == "client"
        else f"{_size(turn.response_bytes)} answered in {plural(turn.writes, 'write')}",
    ]
    if turn.delayed_ack:
        facts.append("a delayed ACK took part")
    if turn.retransmits:
        kind = f" ({turn.retransmit_kind})" if turn.retransmit_kind else ""
        facts.append(f"{plural(turn.retransmits, 'segment')} sent again{kind}")
    return facts


def _size(size_bytes: int | None) -> str:
    return format_size(size_bytes)


def bar_takes(bar: Bar) -> str:
    return f"{'~' if bar.estimated else ''}{format_duration(bar.duration_ns)}"


def turn_notes(turn: Turn, *, alone: bool) -> list[str]:
    """Sentences that limit what the bars say. alone: the other end is not shown beside it."""
    notes = []
    if any(bar.estimated and bar.duration_ns for bar in turn.bars):
        notes.append(
            "~ estimated: only this end is known, so network and other end are split by the connection's "
            "least round trip; their sum is exact"
        )
    network = turn.bar("network_ns")
    if alone and network and len(network.spans) > 1:
        notes.append("the network's time is known there and back together; it is drawn in halves")
    rest = turn.bar(UNATTRIBUTED)
    if rest and rest.duration_ns:
        notes.append("unattributed time is drawn last, wherever it was, so starts are the earliest possible")
    if turn.hold_ambiguous:
        notes.append("what held the bytes could be Nagle or cork: no hook told them apart")
    if turn.delayed_ack is None:
        notes.append("whether a delayed ACK took part could not be told")
    return notes


def placement_note(line: ExchangeLine) -> str | None:
    if line.other is None or line.placement_exact:
        return None
    return "the other end's place on this axis is estimated, because another clock timed it"


def zero_stages(turn: Turn) -> list[str]:
    """Names of stages that are known to have taken no time."""
    return [stage_name(bar.stage) for bar in turn.bars if not bar.duration_ns and bar.stage != UNATTRIBUTED]


def unknown_stages(turn: Turn) -> list[tuple[str, str]]:
    """(names, why), stages with the same reason together."""
    found: dict[str, list[str]] = {}
    for each in turn.unknown:
        found.setdefault(each.why, []).append(stage_name(each.stage))
    return [(", ".join(names), why) for why, names in found.items()]


def entry_words(entry: Entry) -> str:
    """What an entry of a connection's course is."""
    match entry:
        case Handshake():
            return f"handshake{f', {entry.repeats} sent again' if entry.repeats else ''}"
        case Passage():
            return passage_words(entry.turn)
        case Gap():
            return _WAITS[entry.waits_for]
        case Omission():
            return omission_words(entry)
        case Happening():
            return event_words(entry.event)
        case End():
            return end_words(entry.reason, entry.initiator)


def entry_takes(entry: Entry) -> str:
    """Its duration; empty for what has none."""
    match entry:
        case Handshake():
            return f"{'' if entry.exact else '~'}{format_duration(entry.duration_ns)}"
        case Passage():
            return format_duration(entry.turn.total_ns)
        case Gap() | Omission():
            return format_duration(entry.duration_ns)
    return ""


def passage_words(turn: Turn) -> str:
    return f"{turn.connection_id}.{turn.seq} {turn.side or UNKNOWN}"


def omission_words(left: Omission) -> str:
    """What is left out, in one clause."""
    parts = []
    if left.recorded:
        mean, most = format_duration(left.busy_ns / left.recorded), format_duration(left.longest_ns)
        each = f"{mean} on average, at most {most}" if left.recorded > 1 else most
        parts.append(f"{plural(left.recorded, 'exchange')} left out: {each}")
    if left.unrecorded:
        parts.append(f"{plural(left.unrecorded, 'exchange')} without a record of {_own(left.unrecorded)} own")
    if left.events:
        parts.append(f"{plural(left.events, 'event')} left out")
    return "; ".join(parts)


def _own(number: int) -> str:
    return "its" if number == 1 else "their"


def event_words(event: Event) -> str:
    if event.what == "retransmission":
        size = f", {format_size(event.bytes)}" if event.bytes is not None else ""
        return f"{event.of} sent again{size}{f' ({event.detail})' if event.detail else ''}"
    words = {"reset sent": "reset sent by this end", "drop": "incoming packet dropped by the kernel"}
    return f"{words[event.what]}{f' ({event.detail})' if event.detail else ''}"


def end_words(reason: str | None, initiator: str | None) -> str:
    first = _CLOSED_BY.get(initiator or "")
    return f"{_ENDS.get(reason, reason or '')}{f', {first}' if first and reason == 'fin' else ''}"


def course_summary(course: Course) -> list[str]:
    """When it was, and how many exchanges there were and are shown."""
    at = f"{instant_text(course.origin_ns)} UTC"
    if course.origin == "start":
        parts = [at if course.duration_ns is None else f"{at}, for {format_duration(course.duration_ns)}"]
    elif course.origin == "recording":
        parts = [f"open before the recording; times count from its start, {at}"]
    else:
        parts = [f"its start was not seen; times count from what was seen first, {at}"]
    if course.turns is None:
        parts.append(plural(course.recorded, "exchange") if course.recorded else "exchanges were not timed")
    else:
        number = max(course.turns, course.recorded)
        parts.append(plural(number, "exchange") if number else "no exchanges")
    if course.recorded > course.shown:
        parts.append(f"{format_count(course.shown)} of them shown: the first, the last and the slowest")
    if course.turns is not None and course.turns > course.recorded:
        parts.append(f"{format_count(course.turns - course.recorded)} without a record of their own")
    return parts


def held_words(held: Mapping[str, int]) -> Sequence[str]:
    """Over a whole connection: which causes held unsent bytes, and for how long."""
    return [f"{stage_name(f'{cause}_ns')} {format_duration(ns)}" for cause, ns in held.items() if ns]
