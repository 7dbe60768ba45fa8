"""The command line: which commands there are, and how an error becomes a message and an exit code.

Commands are imported when they run, not before: help and completion must not wait for numpy.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from tcptrace import __version__
from tcptrace.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, TcptraceError

INTERRUPTED = 130  # what shells give for SIGINT

# Name -> (module with the click command as `command`, one line for the list).
COMMANDS = {
    "doctor": ("tcptrace.cli.doctor", "Say whether this host can record, and what it can measure."),
    "record": ("tcptrace.cli.record", "Record this host's TCP connections into a trace file."),
    "info": ("tcptrace.cli.info", "Show where a trace comes from and how healthy it is."),
    "summary": ("tcptrace.cli.summary", "Sum a trace up: handshakes, closes, retransmissions."),
    "connections": (
        "tcptrace.cli.connections",
        "List connections as a table, CSV, NDJSON or Parquet.",
    ),
    "exchanges": (
        "tcptrace.cli.exchanges",
        "List exchanges, a request and its answer each, and where their time went.",
    ),
    "budget": ("tcptrace.cli.budget", "Take the time of exchanges apart, and say what would help."),
    "show": ("tcptrace.cli.show", "Show one connection or one exchange as a time line."),
    "report": ("tcptrace.cli.report", "Make one self-contained HTML page of one or more traces."),
    "lab": ("tcptrace.cli.lab", "Play TCP problems with a known truth, record them, and check the rows."),
}

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

# What only `pip install 'tcptrace[report]'` brings.
EXTRA_MODULES = ("pandas", "plotly", "jinja2", "markupsafe")


class LazyGroup(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            ctx.fail(f"there is no command {args[0]!r}; there are {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, "-V", "--version", message="tcptrace %(version)s")
def cli() -> None:
    """Where did this TCP connection's time go?

    tcptrace times the TCP connections of a live Linux host with eBPF: handshakes, the time in each state,
    retransmissions, resets and teardown. A recording needs root; everything else reads the trace file,
    anywhere and without privileges.

    \b
    Examples:
      sudo tcptrace doctor                          can this host record?
      sudo tcptrace record -o web.tct -d 30s --port 443
      tcptrace summary web.tct
      tcptrace report web.tct -o web.html

    \b
    Exit codes:
      0   done
      1   failed
      2   wrong usage
      3   this host cannot: not root, no BTF, no libbpf 1.x
      4   the trace cannot be read: foreign, newer, empty or damaged from the start
      5   the rows are good, but some were lost, or the trace is cut or damaged later on

    `tcptrace COMMAND --help` explains each command. Where another program of this name comes first in
    PATH, `python -m tcptrace` is this one.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit the process with its code."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A locale that cannot print µ must not end in a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # What could not be said on stderr changes no exit code, as it would in the interpreter's own flush.
    sys.exit(_reader_left(run(sys.argv[1:] if args is None else list(args))))


def _open_closed_streams() -> None:
    """A standard stream that came closed (`2>&-`) becomes /dev/null.

    Else its descriptor would be that of the next file that is opened, the trace for one, and messages
    would go into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def run(args: list[str]) -> int:
    """Run the command line and return the exit code; every expected error has become one line on stderr."""
    try:
        code = _invoke(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _reader_left()
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return EXIT_USAGE
    except click.ClickException as error:
        ctx = getattr(error, "ctx", None)
        hint = f" (see `{ctx.command_path} --help`)" if ctx is not None else ""
        return _fail(" ".join(error.format_message().split()).rstrip(".") + hint, error.exit_code)
    except TcptraceError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in EXTRA_MODULES:
            raise
        from tcptrace.invocation import install_report

        return _fail(f"this command needs {missing}: run `{install_report()}`", EXIT_FAILURE)
    except OSError as error:
        what = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return _reader_left(_fail(f"{error.strerror or error}{what}", EXIT_FAILURE))


def _invoke(args: list[str]) -> int:
    try:
        with cli.make_context("tcptrace", args) as ctx:
            code = cli.invoke(ctx)
    except click.exceptions.Exit as done:
        code = done.exit_code
    return code if isinstance(code, int) else EXIT_OK


def _fail(message: str, code: int) -> int:
    from tcptrace.output.escape import visible

    try:
        print(f"tcptrace: {visible(message)}", file=sys.stderr, flush=True)
    except OSError:  # no reader, a closed terminal, a full disk
        return _reader_left(code)
    return code


def _reader_left(code: int = EXIT_OK) -> int:
    """Who reads our output has seen enough, as in `| head`, or has no room for it: what is still unwritten
    goes nowhere."""
    # Else the interpreter's own flush at exit complains.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return code
