"""Load tools against what is recorded of their turns: nginx under h2load, PostgreSQL under pgbench."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latency import Comparison, compare, of_transactions
from recording import Recording, run
from services import HTTP_PORT, SQL_PORT, h2load, nginx, postgres
from tcptrace.errors import TcptraceError
from tcptrace.lab.namespaces import Namespace

Start = Callable[..., Recording]


@dataclass(frozen=True)
class Web:
    """Requests to nginx, so many at a time, each on a connection that is kept."""

    path: str
    connections: int
    requests: int

    @property
    def title(self) -> str:
        one = "one connection" if self.connections == 1 else f"{self.connections} connections"
        return f"nginx, {self.path} file, {one}"


@dataclass(frozen=True)
class Sql:
    """Transactions of pgbench, each of so many statements."""

    name: str
    options: tuple[str, ...]
    statements: int
    transactions: int

    @property
    def title(self) -> str:
        return f"PostgreSQL, {self.name}"


WEB = (Web("small", 1, 5000), Web("small", 4, 10_000), Web("large", 1, 2000))
SQL = (
    Sql("one statement per transaction", ("-S",), 1, 3000),
    Sql("seven statements per transaction", (), 7, 500),
)


def web(space: Namespace, start: Start) -> Iterator[Comparison]:
    """nginx under h2load: the mean of all turns."""
    with nginx(space) as url:
        for case in WEB:
            recording = start("--netns", space.inode)
            told = h2load(space, f"{url}/{case.path}", case.requests, case.connections)
            turns = client_turns(recording, space, HTTP_PORT)
            yield compare(case.title, told, turns, turns["total_ns"].to_numpy())


def sql(space: Namespace, start: Start) -> Iterator[Comparison]:
    """PostgreSQL under pgbench: the mean of all transactions."""
    with postgres(space) as server:
        for case in SQL:
            recording = start("--netns", space.inode)
            told = server.pgbench(case.transactions, *case.options)
            turns = client_turns(recording, space, SQL_PORT)
            # pgbench asks the server about the tables first, on a connection of its own.
            ids, counts = np.unique(turns["connection_id"].to_numpy(), return_counts=True)
            turns = turns.filter(pc.equal(turns["connection_id"], int(ids[counts.argmax()])))
            yield compare(case.title, told, turns, of_transactions(turns, case.statements))


def client_turns(recording: Recording, space: Namespace, port: int) -> pa.Table:
    """Stop the recording; the table `exchanges` of the clients of a port, none of which may be missing."""
    ends = [row for row in recording.stop() if row["netns"] == space.inode and row["remote_port"] == port]
    path = recording.path.with_suffix(".parquet")
    done = run("exchanges", str(recording.path), "--format", "parquet", "-o", str(path))
    if done.returncode != recording.exit_code:
        raise TcptraceError(f"exchanges ended with {done.returncode}: {done.stderr.strip()}")
    table = pq.read_table(path)
    ids = pa.array([row["connection_id"] for row in ends], pa.int64())
    turns = table.filter(pc.is_in(table["connection_id"], ids))
    counted = sum(row["exchanges"] or 0 for row in ends)
    if len(turns) != counted:
        raise TcptraceError(f"{len(turns)} of {counted} turns have a row of their own")
    return turns
