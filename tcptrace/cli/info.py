"""tcptrace info."""

import sys
from pathlib import Path

import click

from tcptrace.cli import CONTEXT
from tcptrace.cli.common import exit_code, json_option, print_json, trace_argument


@click.command("info", context_settings=CONTEXT)
@trace_argument
@json_option
def command(trace: Path, as_json: bool) -> int:
    """Show where TRACE comes from and how healthy it is.

    First its health: whether the recording ended cleanly, whether the file is cut or damaged, and what was
    lost while recording, by cause. Then what was recorded and how: command line, filters, connections that
    were open before; host, kernel and its settings; the hook that provided each fact, whether it is exact
    or estimated, and why one is missing; what each eBPF program cost.

    A dash (–) is what the file does not say. Names in the trace come from the recorded host: control and
    bidirectional characters in them are spelled out as \\xNN and \\uNNNN.

    \b
    Keys of --json:
      path, complete, clean_end, truncated, damaged, problems
      started_ns, ended_ns    wall clock, ns since 1970
      duration_ns             monotonic; a lower bound unless clean_end
      records                 connections, events and sightings (starts) in the file;
                              a connection that stays open is recorded several times
      exchanges               rows (with a record each), summed (in sums alone, as they came
                              too fast), missing (lost, or cut off; null when unknown),
                              sampling (rows of all of them)
      lost                    total and count per cause; total null when unknown
      header, trailer         as written by `tcptrace record`; trailer null when missing

    \b
    Exit codes:
      0   the trace is complete
      4   it cannot be read: foreign, newer, empty, or damaged from the start
      5   it can, but something was lost, or it is cut or damaged later on

    \b
    Examples:
      tcptrace info web.tct
      tcptrace info --json web.tct | jq .lost
    """
    from tcptrace.analysis.summary import describe
    from tcptrace.output.terminal import console, print_info
    from tcptrace.trace.reader import read

    contents = read(trace)
    info = describe(contents)
    if as_json:
        print_json(info)
    else:
        print_info(console(sys.stdout), info)
    return exit_code(contents)
