"""Tables of any columns as CSV, newline-delimited JSON, Parquet, and as aligned text for a terminal.

The three data formats carry every column and every row. Null is an empty field in CSV, null in JSON and
Parquet, an en dash in text: never 0.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from rich.cells import cell_len

from tcptrace.analysis.columns import by_distinct
from tcptrace.output.escape import visible

# Rows that are turned into text at a time: large enough for columns of code, small next to the table.
CHUNK = 8192


def write_csv(table: pa.Table, file: BinaryIO) -> None:
    """CSV with a header line. Strings are quoted, with control characters in them spelled out, so that a
    row is always one line and harmless on a terminal."""
    from pyarrow import csv

    columns = [
        by_distinct(column, visible) if pa.types.is_string(column.type) else column
        for column in table.columns
    ]
    csv.write_csv(pa.table(columns, names=table.schema.names), file)


def write_ndjson(table: pa.Table, file: BinaryIO) -> None:
    """One JSON object per line, in ASCII: strings are exact, and what is unsafe to print is escaped."""
    for batch in table.to_batches(max_chunksize=CHUNK):
        parts: list[pa.Array | str] = []
        for number, (field, column) in enumerate(zip(batch.schema, batch.columns, strict=True)):
            parts.append(f"{',' if number else '{'}{json.dumps(field.name)}:")
            if pa.types.is_string(field.type):
                column = by_distinct(column, json.dumps)
            parts.append(pc.fill_null(column.cast(pa.string()), "null"))
        parts.append("}\n")
        lines = pc.binary_join_element_wise(*parts, "") if batch.num_columns else pa.array([], pa.string())
        file.write("".join(lines.to_pylist()).encode())


def write_parquet(table: pa.Table, file: BinaryIO) -> None:
    """Parquet, zstd, with the exact strings."""
    from pyarrow import parquet

    parquet.write_table(table, file, compression="zstd")


@dataclass(frozen=True)
class Column:
    """A column of text: its title, its cells (already visible()), and on which side they line up."""

    title: str
    cells: Sequence[str]
    right: bool = False


def text_lines(columns: Sequence[Column]) -> Iterator[str]:
    """The title line, then a line per row, as wide as the widest cells: nothing is cut, so that a narrow
    terminal folds lines and `| less -S` shows them whole."""
    widths = [max(map(cell_len, (column.title, *column.cells))) for column in columns]
    for cells in zip(*[(column.title, *column.cells) for column in columns], strict=True):
        line = "  ".join(
            " " * (width - cell_len(cell)) + cell if column.right else cell + " " * (width - cell_len(cell))
            for column, width, cell in zip(columns, widths, cells, strict=True)
        )
        yield line.rstrip()
