"""What the commands that list a table of a trace share: their options, the formats, where the rows go."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from tcptrace.cli.common import FILE, Function, force_option, trace_argument
from tcptrace.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    Lines = Callable[[pa.Table], Iterator[str]]


def listing_options(function: Function) -> Function:
    """TRACE, --format, -o and --force."""
    for option in (
        force_option,
        click.option(
            "-o", "--output", type=FILE, metavar="FILE", help="Write to FILE (mode 0600) instead of stdout."
        ),
        click.option(
            "--format",
            "format_",
            type=click.Choice(["table", "csv", "ndjson", "parquet"]),
            default="table",
            show_default=True,
            help="table is for reading; the others carry every column. parquet needs -o.",
        ),
        trace_argument,
    ):
        function = option(function)
    return function


def check_output(format_: str, output: Path | None, force: bool) -> None:
    """Raise, before any work, what will be wrong with the output."""
    from tcptrace.output.files import check_target

    if format_ == "parquet" and output is None:
        raise UsageError("--format parquet is no text, so it needs a file: add -o FILE")
    if output is not None:
        check_target(output, force=force)


def deliver(table: "pa.Table", lines: "Lines", format_: str, output: Path | None, force: bool) -> None:
    """Writes the table to its place; `lines` makes it text for reading."""
    from tcptrace.output.files import write_private

    if output is not None:
        write_private(output, lambda file: _write(table, lines, format_, file), force=force)
    else:
        sys.stdout.flush()
        _write(table, lines, format_, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _write(table: "pa.Table", lines: "Lines", format_: str, file: BinaryIO) -> None:
    from tcptrace.output import tables

    if format_ == "table":
        encoding = sys.stdout.encoding if file is sys.stdout.buffer else "utf-8"
        for line in lines(table):
            file.write(f"{line}\n".encode(encoding, "backslashreplace"))
    else:
        writer = {"csv": tables.write_csv, "ndjson": tables.write_ndjson, "parquet": tables.write_parquet}
        writer[format_](table, file)
