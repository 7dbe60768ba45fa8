"""Load tools against what is recorded of their turns: nginx under h2load, PostgreSQL under pgbench."""

from __future__ import annotations

import contextlib
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
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import SIDE_B, Namespace

Start = Callable[..., Recording]


@dataclass(frozen=True)
class Web:
    """Requests to nginx, so many at a time, each on a connection that is kept; no delay means loopback."""

    path: str
    connections: int
    requests: int
    delay_ms: int = 0
    """One way."""

    @property
    def title(self) -> str:
        one = "one connection" if self.connections == 1 else f"{self.connections} connections"
        where = f"relay with {self.delay_ms} ms each way" if self.delay_ms else "loopback"
        return f"nginx, {self.path} file, {one}, {where}"


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


WEB = (Web("small", 4, 5000), Web("large", 1, 2000), Web("large", 4, 2000), Web("small", 2, 800, delay_ms=1))
SQL = (
    Sql("one statement per transaction", ("-S",), 1, 3000),
    Sql("seven statements per transaction", (), 7, 500),
)


def web(start: Start) -> Iterator[Comparison]:
    """nginx under h2load: the mean of all turns."""
    for case in WEB:
        with contextlib.ExitStack() as stack:
            address = "127.0.0.1"
            client = server = stack.enter_context(Namespace())
            if case.delay_ms:
                address, server = SIDE_B.ipv4, stack.enter_context(Namespace())
                stack.enter_context(Link(client, server, delay_ns=case.delay_ms * 1_000_000))
            url = stack.enter_context(nginx(server, address))
            recording = start("--netns", client.inode, "--netns", server.inode)
            told = h2load(client, f"{url}/{case.path}", case.requests, case.connections)
            turns = client_turns(recording, client, HTTP_PORT)
            yield compare(case.title, told, turns, turns["total_ns"].to_numpy())


def sql(start: Start) -> Iterator[Comparison]:
    """PostgreSQL under pgbench: the mean of all transactions."""
    with Namespace() as space, postgres(space) as server:
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
