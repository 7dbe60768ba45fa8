"""`tcptrace report`: one self-contained HTML page of one or more traces."""

import sys
from pathlib import Path

import click

from tcptrace.cli import CONTEXT
from tcptrace.cli.common import exit_code, force_option
from tcptrace.output.escape import visible
from tcptrace.output.files import check_target, write_private

STDOUT = Path("-")


@click.command("report", context_settings=CONTEXT)
@click.argument(
    "traces",
    metavar="TRACE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the page goes; - for standard output. Default: the name of the (first) trace with .html, "
    "in the current directory.",
)
@force_option
def command(traces: tuple[Path, ...], output: Path | None, force: bool) -> int:
    """Make one self-contained HTML page of one or more traces.

    The page needs no network and no server: open it in a browser, print it, attach it to a postmortem. It
    says first where the time of requests went and what would help, with the budget by remote end, process
    and time, percentiles of each stage and the slowest exchanges; then how healthy the recording was,
    handshake latency, the time in each state, how connections ended, retransmissions and drops, the slowest
    connections as a table that sorts and filters, and the remote ends.

    Several traces are joined where connections between their hosts match, by addresses, ports and initial
    sequence numbers: one budget with the exact share of the network, and how far the hosts' clocks are
    apart. Traces that share no connection stand side by side.

    The page is private (mode 0600), because it names hosts, processes and addresses.

    \b
    Examples:
      tcptrace report web.tct
      tcptrace report web.tct -o /tmp/web.html --force
      tcptrace report client.tct server.tct -o both.html

    \b
    Exit codes:
      0   done
      1   failed: the file exists, or pandas, plotly or jinja2 is missing
      4   a trace cannot be read; nothing was written
      5   the page is there, but a trace is not complete: the page says what is missing,
          and so does a line on stderr
    """
    target = output or Path(default_name(traces))
    if target != STDOUT:
        check_target(target, force=force)

    # These need pandas, plotly and jinja2, which a production host need not have.
    from tcptrace.analysis.connections import connections
    from tcptrace.analysis.exchanges import exchanges, sums
    from tcptrace.analysis.join import join
    from tcptrace.output.report import Recording, render
    from tcptrace.trace.reader import read

    contents = [read(path) for path in traces]
    joined = join(contents) if len(contents) > 1 else None
    recordings = []
    for trace in contents:
        ends = connections(trace)
        recordings.append(Recording(trace, ends, exchanges(trace, ends), sums(trace, ends)))
    page = render(recordings, joined).encode()
    if target == STDOUT:
        sys.stdout.buffer.write(page)
        sys.stdout.buffer.flush()
    else:
        write_private(target, page, force=force)
        click.echo(f"wrote {visible(str(target))}", err=True)
    # Every trace that is not complete gets its line.
    return max(exit_code(recording.trace) for recording in recordings)


def default_name(traces: tuple[Path, ...]) -> str:
    """`web.html` from dir/web.tct; `web-and-2-more.html` from three traces."""
    stem = traces[0].stem or "report"
    return f"{stem}.html" if len(traces) == 1 else f"{stem}-and-{len(traces) - 1}-more.html"
