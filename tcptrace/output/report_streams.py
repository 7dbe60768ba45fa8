"""Connections without turns: no exchanges, but how long data was held back, by cause, and lay unread."""

from dataclasses import dataclass

import pyarrow as pa

from tcptrace.analysis import groups
from tcptrace.analysis.streams import HELD, Stream, streams
from tcptrace.output.stage_words import stage_name

SHOWN = 40


@dataclass(frozen=True)
class StreamRow:
    """The streams to or from one place of one program; times in ns, None where they were not observed."""

    name: str
    stream: Stream

    @property
    def held(self) -> list[int | None]:
        return list(self.stream.held.values())


@dataclass(frozen=True)
class Streams:
    """Those that are held back longest, and sums over all."""

    rows: list[StreamRow]
    of: int
    connections: int
    mixed: int
    held: dict[str, int | None]
    unread_ns: int | None

    @property
    def causes(self) -> list[str]:
        return [stage_name(stage) for stage in HELD.values()]

    @property
    def largest(self) -> tuple[str, int] | None:
        """The cause with the longest time, unless nothing was held at all."""
        name, ns = max(self.held.items(), key=lambda entry: entry[1] or 0)
        return (stage_name(HELD[name]), ns) if ns else None


def stream_view(connections: pa.Table) -> Streams | None:
    """None when no connection is a stream, or the budget was off."""
    found = streams(connections)
    if not found:
        return None
    return Streams(
        [StreamRow(groups.label(one.key), one) for one in found[:SHOWN]],
        len(found),
        sum(one.connections for one in found),
        sum(one.mixed for one in found),
        {name: _sum([one.held[name] for one in found]) for name in HELD},
        _sum([one.unread_ns for one in found]),
    )


def _sum(times: list[int | None]) -> int | None:
    known = [ns for ns in times if ns is not None]
    return sum(known) if known else None
