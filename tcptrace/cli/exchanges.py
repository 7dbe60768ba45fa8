"""tcptrace exchanges."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tcptrace.cli import CONTEXT
from tcptrace.cli.common import exit_code
from tcptrace.cli.listing import check_output, deliver, listing_options
from tcptrace.output.escape import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from tcptrace.trace.reader import Trace


@click.command("exchanges", context_settings=CONTEXT)
@listing_options
def command(trace: Path, format_: str, output: Path | None, force: bool) -> int:
    """List the exchanges in TRACE, a request and its answer each, one row per end, ordered by start.

    Each row takes its total time apart into stages. The stages and the unattributed rest add up to the
    total exactly. Null means not observed, never 0: an empty field in CSV, null in NDJSON and Parquet, a
    dash (–) in the table; what was not observed is in the rest.

    The table sums stages up by group and names each connection's remote end; APP is the time in which the
    application did something else, ~ marks an estimate, and ≥ a group of which some stage was not observed.

    When exchanges come faster than they can be written, some have no row, and a line on stderr says how
    many; `connections` still counts them.

    \b
    Columns (_ns and _bytes are units):
      connection_id, seq      of the table `connections`; the connection's exchanges count from 0
      side                    client: wrote first in this turn; server: answered
      started_ns              wall clock, ns since 1970: first write entered (client), first byte
                              of the request arrived (server)
      total_ns                until the last read of the answer returned (client), until its last
                              byte was handed to the device (server)
      app_ns                  the application's own time: between its writes (client), from read
                              to write (server)
      sndbuf_ns               blocked in a write for room in the send buffer
      nagle_ns, cork_ns, cwnd_ns, rwnd_ns, pacing_ns
                              bytes held back by Nagle's algorithm, TCP_CORK or MSG_MORE, the
                              congestion window, the receiver's window, pacing
      kernel_tx_ns            the rest of the way from write to device
      loss_recovery_ns        until the request left for the last time
      network_ns, peer_ns     until the answer arrived: the way there and back, and the other end;
                              split by what that end says when it is in the trace, else by the
                              connection's least round trip
      kernel_rx_ns            from the device to readiness
      wakeup_ns, app_late_ns  until the first read: waiting for a CPU; the application elsewhere
      transfer_ns             until the last read
      unattributed_ns         the total less all stages
      network_exact           whether the split is the other end's word, not an estimate
      delayed_ack             a delayed ACK took part; null when that cannot be told
      hold_ambiguous          nagle_ns may be cork_ns, or the other way round
      request_bytes, response_bytes, writes, reads
      retransmits             of this end's segments in this turn
      retransmit_kind         rto, fast, tlp (tail loss probe), joined by +
      peer_connection_id, peer_seq
                              the same turn's row at the other end

    \b
    Exit codes:
      0   every row is there
      2   wrong usage, such as --format parquet without -o
      4   the trace cannot be read: foreign, newer, empty, or damaged from the start
      5   these rows are good, but some were lost, or the trace is cut or damaged later on

    \b
    Examples:
      tcptrace exchanges web.tct | less -S
      tcptrace exchanges web.tct --format csv -o exchanges.csv
      tcptrace exchanges web.tct --format ndjson | jq 'select(.delayed_ack)'
      tcptrace exchanges web.tct --format parquet -o exchanges.parquet
    """
    check_output(format_, output, force)

    from tcptrace.analysis.connections import connections
    from tcptrace.analysis.exchanges import exchanges
    from tcptrace.output.listing import exchange_lines
    from tcptrace.trace.reader import read

    contents = read(trace)
    ends = connections(contents)
    table = exchanges(contents, ends)
    deliver(table, lambda rows: exchange_lines(rows, ends), format_, output, force)
    _explain(contents, table)
    return exit_code(contents)


def _explain(contents: "Trace", table: "pa.Table") -> None:
    """Says on stderr why there are no rows, or fewer than there were exchanges."""
    from tcptrace.analysis.exchanges import without_rows
    from tcptrace.units import format_count, plural

    sys.stdout.flush()
    name = visible(str(contents.path))
    options = contents.header.get("options")
    if missing := without_rows(contents):
        every = format_count(table.num_rows + missing)
        what = f"{plural(missing, 'exchange')} of {every} have no row: they came too fast for one each"
        print(f"tcptrace: {name}: {what}", file=sys.stderr)
    elif not table.num_rows and isinstance(options, dict) and options.get("mode") == "lifecycle":
        what = "was recorded with --mode lifecycle, which times no exchanges"
        print(f"tcptrace: {name} {what}: record again without it", file=sys.stderr)
