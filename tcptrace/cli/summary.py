"""tcptrace summary."""

import sys
from pathlib import Path

import click

from tcptrace.cli import CONTEXT
from tcptrace.cli.common import exit_code, json_option, print_json, trace_argument


@click.command("summary", context_settings=CONTEXT)
@trace_argument
@json_option
def command(trace: Path, as_json: bool) -> int:
    """Sum TRACE up: recording health, connections, exchanges, handshakes, retransmissions.

    Health comes first, because what was lost limits what the rest can say. Connections are counted once
    per end: one between two processes of the recorded host has two rows, an active and a passive one.

    Handshakes are timed per role. Active: SYN sent until established. Passive: SYN-ACK sent until the
    client's ACK. Percentiles are values that were measured (nearest rank); p90 needs 10 of them and p99
    needs 100, otherwise a dash (–) or null stands there. `estimated` counts those that are not exact,
    marked ~ in lists. `not observed` counts ends without a handshake time: open before the recording,
    failed, or missed.

    Exchanges, a request and its answer, are shown by remote end with the mean of what people ask for first;
    `tcptrace budget` takes them apart. Values marked ~ are estimated.

    \b
    Close reasons:
      fin             both ends closed, or the connection was closed in order
      reset_sent      ended by a reset from this end, after it was established
      reset_received  ended by a reset from the other end, after it was established
      refused         the other end answered the SYN with a reset
      timeout         no answer came
      aborted         closed by its own end before it was established
      open            still open when the recording ended
      unknown         the end was seen, its reason was not

    \b
    Keys of --json:
      tcptrace                version of this program
      trace                   as in `tcptrace info --json`
      lost                    total and count per cause; total null when unknown
      connections             rows, by_role, by_close_reason, left_censored, right_censored,
                              only_sighted (started in view, ended where the kernel skipped us)
      handshake               active and passive, each: n, p50_ns, p90_ns, p99_ns, max_ns,
                              not_observed, estimated
      retransmits             data, syn, synack (segments), connections, connections_not_known
      exchanges               rows, summed (without a row of their own), sampling, by_side;
                              client and server, each: n, p50_ns, p90_ns, p99_ns, max_ns;
                              all null when the recording timed none
      budget                  the groups by remote with most time, at most 20, as in
                              `tcptrace budget --json`
      events                  rare events by kind; drop_reasons and reset_reasons by name

    \b
    Exit codes:
      0   the trace is complete
      4   it cannot be read: foreign, newer, empty, or damaged from the start
      5   the summary is right for the rows there are, but some were lost,
          or the trace is cut or damaged later on

    \b
    Examples:
      tcptrace summary web.tct
      tcptrace summary --json web.tct | jq .handshake.active.p99_ns
    """
    from tcptrace.analysis.connections import connections
    from tcptrace.analysis.question import brief
    from tcptrace.analysis.summary import GROUPS, summarise
    from tcptrace.output.terminal import console, print_summary
    from tcptrace.trace.reader import read

    contents = read(trace)
    table = connections(contents)
    turns = brief(contents, table, GROUPS)
    summary = summarise(contents, table, turns)
    if as_json:
        print_json(summary)
    else:
        print_summary(console(sys.stdout), summary, table, turns)
    return exit_code(contents)
