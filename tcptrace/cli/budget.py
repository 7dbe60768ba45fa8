"""tcptrace budget."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tcptrace import __version__
from tcptrace.cli import CONTEXT
from tcptrace.cli.common import exit_code, json_option, print_json, trace_argument
from tcptrace.errors import TcptraceError, UsageError
from tcptrace.units import parse_distance, parse_duration, parse_latency, plural

if TYPE_CHECKING:
    import pyarrow as pa

    from tcptrace.analysis.floor import Floor
    from tcptrace.analysis.question import Answer
    from tcptrace.analysis.streams import Stream
    from tcptrace.trace.reader import Trace

BY = ("remote", "port", "role", "process", "program", "namespace", "time")


@click.command("budget", context_settings=CONTEXT)
@trace_argument
@click.option("--physical-rtt", metavar="T", help="The round trip that physics asks for, as in 0.5ms.")
@click.option("--distance", metavar="D", help="Instead: how far away the other end is, as in 80km or 50mi.")
@click.option("--target", metavar="T", help="What the mean exchange should take, as in 1ms.")
@click.option(
    "--by",
    "by",
    multiple=True,
    type=click.Choice(BY),
    help="Group by this; can be repeated.  [default: remote]",
)
@click.option("--bin", "bin_", metavar="T", help="Width of the bins of --by time, as in 10s.")
@click.option("--side", type=click.Choice(["client", "server"]), help="Only the exchanges of this side.")
@click.option(
    "--limit", type=click.IntRange(1), default=10, show_default=True, help="So many groups at most."
)
@json_option
def command(
    trace: Path,
    physical_rtt: str | None,
    distance: str | None,
    target: str | None,
    by: tuple[str, ...],
    bin_: str | None,
    side: str | None,
    limit: int,
    as_json: bool,
) -> int:
    """Take the time of exchanges in TRACE apart, and say what would save how much of it.

    An exchange is a request and its answer on a connection, as one end saw it; sides are kept apart. The
    client is the end that writes first in a turn. Its total runs from its first write to the last read of
    the answer; a server's from the request's first byte to when the answer's last byte left. Stages and
    `unattributed` add up to it.

    Percentiles of stages do not add up: `near p99` is the mean over the exchanges whose total lies around
    that percentile (p50: 45 to 55, p90: 85 to 95, p99: 98.5 to 99.5). Means are over all exchanges, also
    those that came too fast for a row each; percentiles are over rows.

    With --physical-rtt or --distance the steps lead from that floor through what the network takes above it
    (route excess) to what was measured, largest first. What was measured is the mean exchange with its
    share of connection set-up: the handshakes of its connections, spread over the exchanges they served.
    Light in fibre takes 4.9 us per km each way.

    A change is listed with the time that it was measured to cost, if that is a hundredth of its group's mean
    or more; `at most` where only a part of it can go away. Each stands alone: savings of two need not add
    up. A server's part is taken apart further where the trace has both ends.
    Values marked ~ are estimated: seen from one end, network and the other end are told apart by the least
    round trip of the connection.

    \b
    Keys of --json:
      tcptrace, trace     version of this program; path of the trace
      exchanges           rows, summed (without a row), sampling, by_side, client, server
      floor, target_ns    as asked for
      whole               per side: all its exchanges as one group, as in budget, and group_count:
                          of how many groups budget has the first --limit
      budget              the groups: keys, exchanges, rows, sampling, connections; mean, p50, p90,
                          p99, max, each with n, total_ns, every stage, unattributed_ns, groups,
                          missing (stage: exchanges that do not know it), network_exact,
                          network_estimated (exchanges), delayed_ack, hold_ambiguous; and gap:
                          steps, mean_ns, measured_ns (with set-up), over_target_ns, floor
      changes             cause, saving_ns and measured_ns (per exchange of its group), whole_ns
                          (of the mean of its side), at_most, estimated, reaches_target, what,
                          do, note
      streams             connections without turns: held_..._ns and unread_ns, summed

    \b
    Exit codes:
      0   done
      1   the trace has no budget, or no exchange of the side that was asked for
      2   wrong usage, such as a distance without a unit
      4   the trace cannot be read: foreign, newer, empty, or damaged from the start
      5   the figures are good, but some rows were lost, or the trace is cut or damaged later on

    \b
    Examples:
      tcptrace budget orders.tct
      tcptrace budget orders.tct --distance 80km --target 1ms
      tcptrace budget orders.tct --physical-rtt 0.5ms --by remote --by process
      tcptrace budget orders.tct --json | jq '.changes[0]'
    """
    if physical_rtt is not None and distance is not None:
        raise UsageError("--physical-rtt and --distance both give the floor: give one of them")
    if bin_ is not None and "time" not in by:
        raise UsageError("--bin is the width of --by time: add that")

    from tcptrace.analysis.floor import of_distance, of_round_trip

    floor: Floor | None = None
    if physical_rtt is not None:
        floor = of_round_trip(parse_latency(physical_rtt))
    elif distance is not None:
        floor = of_distance(parse_distance(distance))
    target_ns = None if target is None else parse_latency(target)
    bin_ns = None if bin_ is None else parse_duration(bin_)
    by = tuple(dict.fromkeys(by)) or ("remote",)

    from tcptrace.analysis.budget import pieces
    from tcptrace.analysis.connections import connections
    from tcptrace.analysis.exchanges import exchanges, sums
    from tcptrace.analysis.question import answers, totals
    from tcptrace.analysis.streams import streams
    from tcptrace.output.terminal import console
    from tcptrace.output.terminal_budget import print_budget
    from tcptrace.trace.reader import read

    contents = read(trace)
    ends = connections(contents)
    _refuse_untimed(contents, ends)
    everything = pieces(exchanges(contents, ends), sums(contents, ends))
    counts, other = totals(everything), streams(ends)
    sides = _sides(contents, counts["by_side"], side, floor is not None, target_ns is not None)
    made = answers(
        everything,
        ends,
        sides=sides,
        by=by,
        bin_ns=bin_ns,
        floor=floor,
        target_ns=target_ns,
        limit=None if "time" in by else limit,
    )
    if as_json:
        print_json(_json(contents, counts, made, other, floor, target_ns))
    else:
        out = console(sys.stdout)
        print_budget(out, counts, made, other, by=by, floor=floor, target_ns=target_ns)
    return exit_code(contents)


def _refuse_untimed(contents: "Trace", ends: "pa.Table") -> None:
    from tcptrace.analysis.question import why_untimed
    from tcptrace.invocation import command as own

    why = why_untimed(contents, ends)
    if why is not None:
        raise TcptraceError(f"{contents.path} {why}: record again with `sudo {own()} record -o FILE`")


def _sides(
    contents: "Trace", by_side: dict[str, int], side: str | None, floor: bool, target: bool
) -> list[str]:
    """The sides to show. Raises TcptraceError when there are exchanges, and none of the side in question."""
    if floor and side == "server":
        raise UsageError("the network is in a client's time alone: --side server has no floor")
    other = {"client": "server", "server": "client"}
    wanted = side or ("client" if floor else None)
    if wanted is not None and not by_side[wanted] and by_side[other[wanted]]:
        there = plural(by_side[other[wanted]], "exchange")
        if floor:
            raise TcptraceError(
                f"{contents.path} has {there} seen from the server's end and none from the client's, where "
                "the network is in the time: record at the client, too"
            )
        raise TcptraceError(
            f"{contents.path} has {there} seen from the {other[wanted]}'s end and none from the {wanted}'s: "
            f"record there, too, or ask for --side {other[wanted]}"
        )
    if wanted is None and target:
        wanted = "client" if by_side["client"] else "server"
    return [wanted] if wanted else list(other)


def _groups(answer: "Answer") -> list[dict[str, Any]]:
    if not answer.gaps:
        return [group.json() | {"gap": None} for group in answer.groups]
    both = zip(answer.groups, answer.gaps, strict=True)
    return [group.json() | {"gap": gap.json()} for group, gap in both]


def _json(
    contents: "Trace",
    counts: dict[str, Any],
    made: "list[Answer]",
    other: "list[Stream]",
    floor: "Floor | None",
    target_ns: int | None,
) -> dict[str, Any]:
    return {
        "tcptrace": __version__,
        "trace": str(contents.path),
        "exchanges": counts,
        "floor": None if floor is None else floor.json(),
        "target_ns": target_ns,
        "whole": [
            answer.whole.json() | {"gap": answer.gap.json(), "group_count": answer.of} for answer in made
        ],
        "budget": [entry for answer in made for entry in _groups(answer)],
        "changes": [change.json() for answer in made for change in answer.changes],
        "streams": [stream.json() for stream in other],
    }
