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
from budget import Budget, column, insist_on_shares, of, read_budget
from conftest import require, why_no_lab, why_no_recording
from drive import pair_of, poll, receive
from late_reader import ANSWER, HOG_SECONDS, LATE_SECONDS, REQUEST
from ledger import note
from recording import Recording, Row
from scene import Wired
from tcptrace.lab import namespaces
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


@dataclass(frozen=True)
class Late:
    """Turns of which one end, in a process of its own, reads late; ns, one value per turn."""

    late: Times
    """From just before the other end's write to the reader's return from its read."""
    elsewhere: Times
    """The part of it before the read was entered."""
    delay: Times
    """The reader's run delay, from before it was elsewhere to its return."""


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


def late_turns(spaces: Wired, cpu: int, role: str, way: str) -> tuple[int, Late]:
    """Turns whose reader is the client or the server; the client's port, and what is known of them."""
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
    return port, Late(returned - written, entered - written, delay)


@dataclass(frozen=True)
class Recorded:
    """All turns, in one recording, by role and way; and the reader's rows of each."""

    budget: Budget
    late: dict[tuple[str, str], Late]
    rows: dict[tuple[str, str], list[Row]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    require(not why_no_lab(), why_no_lab())
    require(not why_no_recording(), why_no_recording())
    allowed = sorted(os.sched_getaffinity(0))
    require(len(allowed) > 1, "only one CPU: nobody could write while the reader is kept from it")
    with contextlib.ExitStack() as stack:
        spaces = stack.enter_context(namespaces.pair())
        recording = Recording(tmp_path_factory.mktemp("late") / "late.tct", of(*spaces))
        stack.callback(recording.abandon)
        # The readers have a CPU to themselves, and to the hog.
        stack.callback(os.sched_setaffinity, 0, allowed)
        os.sched_setaffinity(0, {allowed[0]})
        done = {
            (role, way): late_turns(spaces, allowed[1], role, way)
            for role in ("server", "client")
            for way in ("waits", "computes", "sleeps")
        }
        budget = read_budget(recording)
        rows = {
            (role, way): budget.turns(spaces[0 if role == "client" else 1], port)
            for (role, way), (port, _) in done.items()
        }
        yield Recorded(budget, {name: late for name, (_, late) in done.items()}, rows)


def known(recorded: Recorded, role: str, way: str) -> tuple[Late, list[Row]]:
    """What is known of turns, and their rows, without the first: of what was before it too little is."""
    late, rows = recorded.late[role, way], recorded.rows[role, way]
    assert {row["side"] for row in rows} == {role} and len(rows) == TURNS
    return Late(late.late[1:], late.elsewhere[1:], late.delay[1:]), rows[1:]


each_role = pytest.mark.parametrize("role", ["server", "client"])


@each_role
def test_a_reader_kept_from_the_cpu_waits_for_its_wakeup(recorded: Recorded, role: str) -> None:
    found, rows = known(recorded, role, "waits")
    # The scene is what it is meant to be: the reader waited, and for the CPU.
    assert np.median(found.delay) > 0.25 * HOG_SECONDS * 1e9
    assert found.delay.sum() > 0.9 * found.late.sum()
    wakeup = column(rows, "wakeup_ns")
    note("wakeup_ns", TURNS, float(np.median(found.delay)), float(np.median(wakeup)), ">= 90 %")
    assert np.median(wakeup) >= 0.9 * np.median(found.delay), (found, wakeup)
    assert wakeup.sum() >= 0.9 * found.delay.sum(), (found, wakeup)
    assert (wakeup <= found.late).all(), (found, wakeup)
    assert column(rows, "app_late_ns").sum() < 0.1 * found.late.sum(), found


@each_role
@pytest.mark.parametrize("way", ["computes", "sleeps"])
def test_a_reader_that_is_elsewhere_reads_late(recorded: Recorded, role: str, way: str) -> None:
    found, rows = known(recorded, role, way)
    # Of the time before its read it computed, or slept, except for what the kernel kept it from the CPU.
    truth = found.elsewhere - found.delay
    assert np.median(truth) > 0.8 * LATE_SECONDS * 1e9
    late = column(rows, "app_late_ns")
    note("app_late_ns", TURNS, float(np.median(truth)), float(np.median(late)), ">= 90 %")
    assert np.median(late) >= 0.9 * np.median(truth), (found, late)
    assert late.sum() >= 0.9 * truth.sum(), (found, late)
    assert (late <= found.late).all(), (found, late)
    assert column(rows, "wakeup_ns").sum() <= found.delay.sum() + 0.05 * found.late.sum(), found


def test_little_is_unattributed(recorded: Recorded) -> None:
    """Also where the tracer meets a reader for the first time."""
    insist_on_shares(recorded.budget.exchanges)
