"""What the commands that read traces share."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tcptrace.errors import EXIT_INCOMPLETE, EXIT_OK
from tcptrace.output.escape import visible

if TYPE_CHECKING:
    from tcptrace.trace.reader import Trace

Function = TypeVar("Function", bound=Callable[..., Any])

TRACE = click.Path(exists=True, dir_okay=False, path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)


def trace_argument(function: Function) -> Function:
    return click.argument("trace", metavar="TRACE", type=TRACE)(function)


def json_option(function: Function) -> Function:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def force_option(function: Function) -> Function:
    return click.option("--force", is_flag=True, help="Replace FILE if it exists.")(function)


def _forced(
    _context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]
) -> Mapping[str, str]:
    from tcptrace.acquire.providers import forced

    return forced(value)


def provider_option(function: Function) -> Function:
    """Gives the command `providers`: fact -> provider, or "none". Raises UsageError."""
    return click.option(
        "--provider",
        "providers",
        multiple=True,
        callback=_forced,
        metavar="FACT=PROVIDER",
        help="Observe a fact by this provider only, as doctor names them; none leaves it out.",
    )(function)


def print_json(value: object) -> None:
    """Indented JSON in ASCII: names of the recorded host stay exact and cannot touch a terminal."""
    print(json.dumps(value, indent=2))


def exit_code(trace: "Trace") -> int:
    """0 for a complete trace; else 5, after one line on stderr that says what is missing. Call it last, when
    the data is out."""
    from tcptrace.analysis.summary import problems

    if trace.complete:
        return EXIT_OK
    sys.stdout.flush()
    reasons = visible("; ".join(problems(trace)))
    print(f"tcptrace: {visible(str(trace.path))} is not complete: {reasons}", file=sys.stderr)
    return EXIT_INCOMPLETE
