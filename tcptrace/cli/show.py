"""tcptrace show."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tcptrace.cli import CONTEXT
from tcptrace.cli.common import exit_code, json_option, print_json, trace_argument
from tcptrace.errors import TcptraceError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tcptrace.trace.reader import Trace

_ID = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,10}))?", re.ASCII)
_LARGEST = (1 << 63) - 1


@click.command("show", context_settings=CONTEXT)
@trace_argument
@click.argument("identity", metavar="ID")
@json_option
def command(trace: Path, identity: str, as_json: bool) -> int:
    """Show one connection of TRACE, or one exchange, as a time line.

    ID is a connection_id of `tcptrace connections`, such as 17, or an exchange of that connection, such as
    17.3: its connection_id and seq in `tcptrace exchanges`.

    A connection is told in the order of time: handshake, exchanges, idle time, what was sent again, reset or
    dropped, its end; then the time in each state. An exchange is a strip of letters, one per group of stages,
    as long as its share of the slowest one. Of a long connection the first, the last and the slowest
    exchanges are shown, and lines say what is left out.

    An exchange is a bar per stage, in order; with both ends in the trace, the other end's stages follow on
    the same axis. ~ marks estimates. Stages are in order of the path of the last byte of the request; what no
    stage explains is unattributed and comes last. A stage that was not observed is not known, and says why;
    that is not the same as no time.

    \b
    Keys of --json, for a connection:
      connection              its row of `tcptrace connections`
      origin_ns, origin       wall clock from which every start_ns counts; start, recording (it was
                              open before) or first seen
      duration_ns             from start to end, or to the recording's end
      turns, recorded, shown  complete exchanges; those with a row; those in entries
      entries                 handshake, passage (an exchange), gap, omission, happening, end
      states, held            time in each state; how long unsent bytes were held, by cause

    \b
    Keys of --json, for an exchange:
      own, other              each: connection_id, seq, side, started_ns, total_ns, its bars
                              (stage, group, spans of start_ns and duration_ns, estimated),
                              unknown (stage, why) and further columns of `tcptrace exchanges`;
                              other is null when the other end is not in the trace
      other_start_ns          when the other end's began, after own's
      placement_exact         false when two clocks timed them
      events                  what was sent again, reset or dropped meanwhile

    \b
    Exit codes:
      0   shown, and the trace is complete
      1   the trace has no such connection or exchange
      2   ID is neither
      4   the trace cannot be read: foreign, newer, empty, or damaged from the start
      5   shown, but something was lost, or the trace is cut or damaged later on

    \b
    Examples:
      tcptrace show web.tct 17
      tcptrace show web.tct 17.3
      tcptrace show --json web.tct 17.3 | jq .own.bars
    """
    connection_id, seq = _parse(identity)

    from tcptrace.analysis.connections import connections
    from tcptrace.analysis.exchanges import exchanges
    from tcptrace.trace.reader import read

    contents = read(trace)
    ends = connections(contents)
    turns = exchanges(contents, ends)
    if seq is None:
        _show_connection(contents, ends, turns, connection_id, as_json)
    else:
        _show_exchange(contents, ends, turns, connection_id, seq, as_json)
    return exit_code(contents)


def _parse(identity: str) -> tuple[int, int | None]:
    """(connection_id, seq or None). Raises UsageError."""
    match = _ID.fullmatch(identity)
    if match is None or int(match[1]) > _LARGEST:
        raise UsageError(f"{identity!r} is no ID: give a connection, as in 17, or an exchange, as in 17.3")
    return int(match[1]), None if match[2] is None else int(match[2])


def _show_connection(
    trace: "Trace", ends: "pa.Table", turns: "pa.Table", connection_id: int, as_json: bool
) -> None:
    from tcptrace.analysis.course import course
    from tcptrace.output.terminal import console
    from tcptrace.output.timeline import print_course
    from tcptrace.output.timeline_json import course_json

    found = course(trace, ends, turns, connection_id)
    if found is None:
        raise TcptraceError(_no_connection(trace, ends, connection_id))
    if as_json:
        print_json(course_json(found))
    else:
        print_course(console(sys.stdout), found)


def _show_exchange(
    trace: "Trace", ends: "pa.Table", turns: "pa.Table", connection_id: int, seq: int, as_json: bool
) -> None:
    from tcptrace.analysis.timeline import exchange_in, find_row
    from tcptrace.output.terminal import console
    from tcptrace.output.timeline import print_exchange
    from tcptrace.output.timeline_json import exchange_json

    row = find_row(turns, connection_id, seq)
    if row is None:
        raise TcptraceError(_no_exchange(trace, ends, turns, connection_id, seq))
    line = exchange_in(trace, ends, turns, row)
    if as_json:
        print_json(exchange_json(line))
    else:
        ids = [each.connection_id for each in (line.own, line.other) if each is not None]
        print_exchange(console(sys.stdout), line, _rows_of(ends, *ids))


def _rows_of(ends: "pa.Table", *connection_ids: int) -> dict[int, dict[str, Any]]:
    """Rows of the table `connections` by their id."""
    import numpy as np

    from tcptrace.analysis.columns import plain, rows_at

    places = np.flatnonzero(np.isin(plain(ends, "connection_id"), connection_ids))
    return {row["connection_id"]: row for row in rows_at(ends, places)}


def _no_connection(trace: "Trace", ends: "pa.Table", connection_id: int) -> str:
    from tcptrace.analysis.columns import plain
    from tcptrace.units import plural

    ids = plain(ends, "connection_id")
    there = "it has none"
    if len(ids):
        there = f"its {plural(len(ids), 'connection')} have ids from {ids.min()} to {ids.max()}"
    if len(ids) == 1:
        there = f"its only one is {ids[0]}"
    return f"{trace.path} has no connection {connection_id}: {there}{_maybe_lost(trace)}"


def _no_exchange(trace: "Trace", ends: "pa.Table", turns: "pa.Table", connection_id: int, seq: int) -> str:
    from tcptrace.analysis.columns import plain
    from tcptrace.analysis.timeline import timed
    from tcptrace.units import format_count, plural

    row = _rows_of(ends, connection_id).get(connection_id)
    if row is None:
        return _no_connection(trace, ends, connection_id)
    own = plain(turns, "seq")[(plain(turns, "connection_id") == connection_id) & timed(turns)]
    if not len(own):
        there = "it has none" if row["exchanges"] == 0 else "none of this connection was timed"
    elif row["exchanges"] is not None and row["exchanges"] > len(own):
        there = (
            f"{format_count(len(own))} of its {plural(row['exchanges'], 'exchange')} have a record of their "
            f"own, with seq from {own.min()} to {own.max()}"
        )
    else:
        there = f"its {plural(len(own), 'exchange')} have seq from {own.min()} to {own.max()}"
    return f"{trace.path} has no exchange {connection_id}.{seq}: {there}{_maybe_lost(trace)}"


def _maybe_lost(trace: "Trace") -> str:
    return "" if trace.complete else "; the trace is not complete"
