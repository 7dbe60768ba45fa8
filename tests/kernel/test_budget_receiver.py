"""From data ready to read returned: waiting for the CPU is wakeup, being elsewhere is app_late.

Truth is the reader's own run delay by the kernel (schedstat) and the clocks of both processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import late_reader
from budget import column, insist_on_shares, of, read_budget
from conftest import require
from drive import pair_of, poll, receive
from late_reader import ANSWER, HOG_SECONDS, LATE_SECONDS, REQUEST
from ledger import note
from recording import Row
from scene import Record, Wired
from turns import Times

TURNS = 20
Child = subprocess.Popen[bytes]


@contextlib.contextmanager
def child(*arguments: object, fds: tuple[int, ...] = ()) -> Iterator[Child]:
    """A process of late_reader.py; its standard input and output are pipes."""
    command = [sys.executable, late_reader.__file__, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=fds, bufsize=0, env=environment
    )
    try:
        yield process
    finally:
        assert process.stdin and process.stdout
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(5)
        finally:
            process.kill()


def signalled(process: Child) -> None:
    """Wait for a byte from a child."""
    assert process.stdout and process.stdout.read(1) == b".", "the child is gone"


def asleep(process: Child) -> bool:
    """Whether it waits for something (proc_pid_stat(5), state)."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.fixture
def cpu() -> Iterator[int]:
    """A CPU for the reader; this thread is bound to another one meanwhile."""
    allowed = sorted(os.sched_getaffinity(0))
    require(len(allowed) > 1, "only one CPU: nobody could write while the reader is kept from it")
    os.sched_setaffinity(0, {allowed[0]})
    try:
        yield allowed[1]
    finally:
        os.sched_setaffinity(0, allowed)


@dataclass(frozen=True)
class Late:
    """Turns of which one end, in a process of its own, reads late; ns, one value per turn."""

    late: Times
    """From just before the other end's write to the reader's return from its read."""
    elsewhere: Times
    """The part of it before the read was entered."""
    delay: Times
    """The reader's run delay, from before it was elsewhere to its return."""
    rows: list[Row]
    """The reader's end, as recorded."""


def turn(mine: socket.socket, role: str, way: str, reader: Child, hog: Child) -> int:
    """The other end's part of one turn. Returns when it wrote what the reader reads late."""
    signalled(reader)
    if role == "client":
        assert len(receive(mine, len(REQUEST))) == len(REQUEST)
    if way == "waits":
        poll(lambda: asleep(reader), "asleep in its read")
        assert hog.stdin
        hog.stdin.write(b".")
        signalled(hog)
    written = time.monotonic_ns()
    mine.sendall(REQUEST if role == "server" else ANSWER)
    if role == "server":
        assert len(receive(mine, len(ANSWER))) == len(ANSWER)
    return written


def late_turns(spaces: Wired, record: Record, cpu: int, role: str, way: str) -> Late:
    """Record turns whose reader is the client or the server."""
    recording = record(*of(*spaces))
    client, server = pair_of(*spaces)
    port = client.getsockname()[1]
    mine, theirs = (client, server) if role == "server" else (server, client)
    with mine, contextlib.ExitStack() as stack:
        number = theirs.fileno()
        with theirs:
            reader = stack.enter_context(child("reader", number, role, way, TURNS, cpu, fds=(number,)))
        hog = stack.enter_context(child("hog", cpu))
        signalled(hog)
        written = np.array([turn(mine, role, way, reader, hog) for _ in range(TURNS)])
        assert reader.stdout
        told = reader.stdout.read(100_000).decode().splitlines()[1]
    entered, returned, delay = np.array(json.loads(told), np.int64).T
    budget = read_budget(recording)
    insist_on_shares(budget.exchanges)
    rows = budget.turns(spaces[0 if role == "client" else 1], port)
    assert {row["side"] for row in rows} == {role} and len(rows) == TURNS
    return Late(returned - written, entered - written, delay, rows)


each_role = pytest.mark.parametrize("role", ["server", "client"])


@each_role
def test_a_reader_kept_from_the_cpu_waits_for_its_wakeup(
    wired: Wired, record: Record, cpu: int, role: str
) -> None:
    found = late_turns(wired, record, cpu, role, "waits")
    # The scene is what it is meant to be: the reader waited, and for the CPU.
    assert np.median(found.delay) > 0.25 * HOG_SECONDS * 1e9
    assert found.delay.sum() > 0.9 * found.late.sum()
    wakeup = column(found.rows, "wakeup_ns")
    note("wakeup_ns", TURNS, float(np.median(found.delay)), float(np.median(wakeup)), ">= 90 %")
    assert np.median(wakeup / found.delay) >= 0.9 and wakeup.sum() >= 0.9 * found.delay.sum(), found
    assert (wakeup <= found.late).all(), found
    assert column(found.rows, "app_late_ns").sum() < 0.1 * found.late.sum(), found


@each_role
@pytest.mark.parametrize("way", ["computes", "sleeps"])
def test_a_reader_that_is_elsewhere_reads_late(
    wired: Wired, record: Record, cpu: int, role: str, way: str
) -> None:
    found = late_turns(wired, record, cpu, role, way)
    # Of the time before its read it computed, or slept, except for what the kernel kept it from the CPU.
    truth = found.elsewhere - found.delay
    assert np.median(truth) > 0.8 * LATE_SECONDS * 1e9
    late = column(found.rows, "app_late_ns")
    note("app_late_ns", TURNS, float(np.median(truth)), float(np.median(late)), ">= 90 %")
    assert np.median(late / truth) >= 0.9 and late.sum() >= 0.9 * truth.sum(), found
    assert (late <= found.late).all(), found
    assert column(found.rows, "wakeup_ns").sum() <= found.delay.sum() + 0.05 * found.late.sum(), found
