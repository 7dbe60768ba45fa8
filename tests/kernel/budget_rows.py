"""The rows of the table `exchanges`, read with the real command, and what must hold in each of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from recording import Recording, Row, ends, run
from tcptrace.analysis.stages import STAGES, UNATTRIBUTED
from tcptrace.lab.namespaces import Namespace

HOLDS = ("nagle_ns", "cork_ns", "cwnd_ns", "rwnd_ns", "pacing_ns", "sndbuf_ns")
"""The stages in which bytes that were written wait for a reason of TCP's own."""
COUNTS = ("request_bytes", "response_bytes", "writes", "reads")


@dataclass(frozen=True)
class Ends:
    """What the trace says of one connection: each end's row of `connections`, and its exchanges by `seq`."""

    client: Row
    server: Row
    client_turns: list[Row]
    server_turns: list[Row]


def ends_of(recording: Recording, a: Namespace, b: Namespace) -> Ends:
    """Stop the recording; the only connection from a to b and every one of its exchanges."""
    client, server = ends(recording.stop(), a, b)
    rows = exchange_rows(recording)
    return Ends(client, server, turns_of(rows, client), turns_of(rows, server))


def exchange_rows(recording: Recording) -> list[Row]:
    """The table `exchanges` of a recording that has stopped, after :func:`add_up` of every row."""
    rows = read_exchanges(recording)
    for row in rows:
        add_up(row)
    return rows


def read_exchanges(recording: Recording) -> list[Row]:
    """The table `exchanges` as the command prints it."""
    done = run("exchanges", str(recording.path), "--format", "ndjson")
    assert done.returncode == recording.exit_code, f"exchanges ended with {done.returncode}: {done.stderr}"
    if recording.exit_code:
        print(f"lost: {recording.lost()}")  # shown with a test that fails, perhaps because of it
    return [json.loads(line) for line in done.stdout.splitlines()]


def add_up(row: Row) -> None:
    """Insist on what holds in every row of `exchanges`: an exact sum, nothing negative, every count known."""
    known = [row[stage] for stage in STAGES if row[stage] is not None]
    assert sum(known) + row[UNATTRIBUTED] == row["total_ns"], f"does not add up: {row}"
    assert min(*known, row[UNATTRIBUTED], row["total_ns"]) >= 0, f"a negative time: {row}"
    assert all(row[count] is not None and row[count] >= 0 for count in COUNTS), f"a count: {row}"


def turns_of(rows: Sequence[Row], connection: Row) -> list[Row]:
    """The exchanges of one end in the order of their `seq`, which counts from 0 without a gap."""
    mine = [row for row in rows if row["connection_id"] == connection["connection_id"]]
    found = sorted(mine, key=lambda row: int(row["seq"]))
    assert [row["seq"] for row in found] == list(range(len(found))), [row["seq"] for row in found]
    return found


def total(rows: Sequence[Row], *columns: str) -> int:
    """The sum of columns over rows, in which none of them may be null."""
    nulls = [(column, row) for row in rows for column in columns if row[column] is None]
    assert not nulls, f"null though known: {nulls[0]}"
    return sum(int(row[column]) for row in rows for column in columns)


def other_holds(rows: Sequence[Row], *causes: str) -> dict[str, int]:
    """What the causes of a hold other than these sum up to over rows."""
    return {cause: total(rows, cause) for cause in HOLDS if cause not in causes}
