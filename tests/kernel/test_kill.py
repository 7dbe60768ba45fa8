"""kill -9 at any moment: the file opens, says so, and what it says is true."""

from __future__ import annotations

import random
import signal
import time
from typing import Any

from drive import SERVER, Background, connect, listen, receive, wait_closed
from recording import BUDGET, STATE_TIMES, Recording, Row
from scene import Record, Wired
from tcptrace.errors import EXIT_INCOMPLETE
from tcptrace.lab.namespaces import SIDE_B, Namespace

KILLS = 20
AT_ONCE = 5
LONGEST_SECONDS = 2.5
KEPT_NS = 1_500_000_000
"""What is older than this when the recording is killed must be in the file."""
OF_THE_MOMENT = {"connection_id", "left_censored", "right_censored", "started_ns", "ended_ns", "handshake_ns"}
"""Columns that two recordings of the same connection may tell differently: their own numbers and clocks."""
CLOCK_NS = 50_000_000
BUDGET_TIMES = {column for column in BUDGET if column.endswith("_ns")}


class Traffic(Background):
    """Connections from a to b, some hundred a second, until told to stop; some stay open for long."""

    def __init__(self, a: Namespace, b: Namespace) -> None:
        super().__init__()
        self.a, self.b = a, b
        self.closed: list[tuple[int, int]] = []
        """(monotonic ns when both ends were closed, client's port)"""

    def work(self) -> None:
        chance = random.Random(1)
        with listen(self.b) as listener:
            while not self.stopping.is_set():
                client = connect(self.a, SIDE_B.ipv4)
                server = listener.accept()[0]
                port, size = client.getsockname()[1], chance.randrange(1, 200)
                client.sendall(b"x" * size)
                assert len(receive(server, size)) == size
                self.stopping.wait(chance.choice((0, 0, 0.001, 0.005, 0.02)))
                client.close()
                assert receive(server, 1) == b""
                server.close()
                self.closed.append((time.monotonic_ns(), port))
        wait_closed(self.b, SERVER)


def key(row: Row) -> tuple[Any, ...]:
    """The same connection's end in two recordings. (Of a censored one only the peer's number is known.)"""
    return (row["netns"], row["local_port"], row["remote_port"], row["rcv_isn"])


def compare(row: Row, truth: Row) -> None:
    """A finished row of a killed recording against the row of one that ended well."""
    censored = row["left_censored"]
    for column, value in row.items():
        true = truth[column]
        if column in OF_THE_MOMENT or (censored and (value is None or column in BUDGET)):
            continue  # the budget of what came after the recording's start
        if column == "role" and censored:
            assert value == "unknown"
        elif (column in STATE_TIMES or column in BUDGET_TIMES) and value is not None:
            assert true is not None and abs(value - true) < CLOCK_NS, (column, row, truth)
        else:
            assert value == true, (column, row, truth)
    for column in ("started_ns", "ended_ns", "handshake_ns"):
        if row[column] is not None:
            assert abs(row[column] - truth[column]) < CLOCK_NS, (column, row, truth)


def test_killed_at_random_moments(wired: Wired, record: Record) -> None:
    a, b = wired
    chance = random.Random()
    reference = record("--netns", a.inode, "--netns", b.inode)
    killed: list[tuple[Recording, int, int]] = []
    with Traffic(a, b) as traffic:
        while len(killed) < KILLS:
            batch = [record("--netns", a.inode, "--netns", b.inode) for _ in range(AT_ONCE)]
            begun = time.monotonic_ns()
            moments = sorted(begun + int(chance.random() * LONGEST_SECONDS * 1e9) for _ in batch)
            for recording, moment in zip(batch, moments, strict=True):
                time.sleep(max(0, moment - time.monotonic_ns()) / 1e9)  # the moment is the test
                recording.process.send_signal(signal.SIGKILL)
                at = time.monotonic_ns()
                recording.process.wait()
                killed.append((recording, begun, at))
    truth = {key(row): row for row in reference.stop()}
    assert len(traffic.closed) > 100

    for recording, begun, at in killed:
        rows = recording.rows(exit_code=EXIT_INCOMPLETE)
        assert "truncated" in recording.remark
        finished = [row for row in rows if row["close_reason"] != "open"]
        for row in finished:
            compare(row, truth[key(row)])
        assert len({key(row) for row in rows}) == len(rows)
        had_to = {port for when, port in traffic.closed if begun <= when <= at - KEPT_NS}
        has = {row["local_port"] for row in finished} & {row["remote_port"] for row in finished}
        assert had_to <= has, f"lost what was {KEPT_NS / 1e9:g} s old: {len(had_to - has)} connections"
        opened = [row for row in rows if row["close_reason"] == "open"]
        assert all(row["right_censored"] for row in opened)
