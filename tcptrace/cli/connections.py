"""tcptrace connections."""

from pathlib import Path

import click

from tcptrace.cli import CONTEXT
from tcptrace.cli.common import exit_code
from tcptrace.cli.listing import check_output, deliver, listing_options


@click.command("connections", context_settings=CONTEXT)
@listing_options
def command(trace: Path, format_: str, output: Path | None, force: bool) -> int:
    """List the TCP connections in TRACE, one row per end, ordered by start.

    Rows whose start was not observed come first. Null means not observed, never 0: an empty field in CSV,
    null in NDJSON and Parquet, a dash (–) in the table. The table shows the most telling columns and
    cuts none of them: on a narrow terminal, a pager such as less -S keeps its lines whole. Durations
    marked ~ are estimated.

    Names come from the recorded host. Table and CSV spell their control and bidirectional characters out
    (\\xNN, \\uNNNN); NDJSON and Parquet carry them exactly.

    \b
    Columns (_ns, _us and _bytes are units; durations unless said otherwise):
      connection_id           unique per row in this trace
      cookie                  the kernel's socket cookie; several connections can share it
      netns                   inode of the network namespace
      family, v4_mapped       ipv4 or ipv6; IPv4 on an IPv6 socket counts as ipv4, mapped
      local_addr, local_port, remote_addr, remote_port
      role                    active (connected), passive (accepted), unknown
      pid, comm               the owner, null unless seen for certain
      started_ns, ended_ns    wall clock, ns since 1970: SYN or SYN-ACK sent, closed
      handshake_ns            active: SYN sent to established; passive: SYN-ACK to ACK
      handshake_exact         false when it is an estimate
      syn_retransmits, synack_retransmits
      syn_sent_ns, syn_recv_ns, established_ns, fin_wait1_ns, fin_wait2_ns, closing_ns,
      time_wait_ns, close_wait_ns, last_ack_ns, time_wait_exact
                              time in each state; syn_recv_ns is the half-open request's
      mss, snd_wscale, rcv_wscale, sack, timestamps, ecn, tfo
                              what the handshake agreed on
      snd_isn, rcv_isn        initial sequence numbers
      congestion_control
      retransmits             data segments sent again
      srtt_us, min_rtt_us     the kernel's smoothed and smallest round-trip time
      bytes_sent, bytes_received, segments_sent, segments_received
                              payload bytes, each counted once; segments, all of them
      close_reason            fin, reset_sent, reset_received, refused, timeout, aborted,
                              open; see `tcptrace summary --help`
      initiator               who closed first: local, remote, simultaneous
      left_censored           open before the recording
      right_censored          open at its end
      state                   of an open connection, when last seen
      pattern                 turns (of request and answer), stream (none), mixed, none (no
                              payload); null, as what follows, when recorded without a budget
      exchanges, pipelined    complete turns; changes of direction that were no turns
      held_nagle_ns, held_cork_ns, held_cwnd_ns, held_rwnd_ns, held_pacing_ns, held_sndbuf_ns
                              how long bytes could not leave, by cause
      unread_ns               how long received bytes waited for a read

    \b
    Exit codes:
      0   every row is there
      2   wrong usage, such as --format parquet without -o
      4   the trace cannot be read: foreign, newer, empty, or damaged from the start
      5   these rows are good, but some were lost, or the trace is cut or damaged later on

    \b
    Examples:
      tcptrace connections web.tct | less -S
      tcptrace connections web.tct --format csv -o web.csv
      tcptrace connections web.tct --format ndjson | jq 'select(.close_reason == "timeout")'
      tcptrace connections web.tct --format parquet -o web.parquet
    """
    check_output(format_, output, force)

    from tcptrace.analysis.connections import connections
    from tcptrace.output.listing import connection_lines
    from tcptrace.trace.reader import read

    contents = read(trace)
    deliver(connections(contents), connection_lines, format_, output, force)
    return exit_code(contents)
