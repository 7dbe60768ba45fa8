"""Turns of request and answer over real sockets, and what is known of them without the tracer.

Every instant is CLOCK_MONOTONIC ns, which applications, the relay and eBPF programs share.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drive import receive
from tcptrace.lab.link import Link, Log
from tcptrace.lab.namespaces import Namespace

Times = npt.NDArray[np.int64]
MS = 1_000_000
US = 1_000


@dataclass(frozen=True)
class Turn:
    """One turn as both applications' clocks tell it."""

    wrote_ns: int
    """Just before the client's first write."""
    got_ns: int
    """The server's last read of the request has returned."""
    answered_ns: int
    """Just before the server's only write."""
    read_ns: int
    """The client's last read of the answer has returned."""
    request_bytes: int
    answer_bytes: int

    @property
    def total_ns(self) -> int:
        return self.read_ns - self.wrote_ns

    @property
    def think_ns(self) -> int:
        return self.answered_ns - self.got_ns


def take_turn(
    client: socket.socket,
    server: socket.socket,
    *,
    request_bytes: int = 100,
    answer_bytes: int = 200,
    think_s: float = 0.0,
    between_s: float = 0.0,
) -> Turn:
    """One request, one answer, by this thread alone: on a link with a delay each end waits in its read.
    The request is one write, or two halves with a pause in between.
    The client reads only after the server wrote, so without a delay its data may lie ready by then.
    """
    wrote = time.monotonic_ns()
    rest = request_bytes // 2 if between_s else request_bytes
    if between_s:
        client.sendall(bytes(request_bytes - rest))
        time.sleep(between_s)
    client.sendall(bytes(rest))
    assert len(receive(server, request_bytes)) == request_bytes
    got = time.monotonic_ns()
    if think_s:
        time.sleep(think_s)
    answered = time.monotonic_ns()
    server.sendall(bytes(answer_bytes))
    assert len(receive(client, answer_bytes)) == answer_bytes
    return Turn(wrote, got, answered, time.monotonic_ns(), request_bytes, answer_bytes)


def totals(turns: Sequence[Turn]) -> Times:
    return np.array([turn.total_ns for turn in turns])


@dataclass(frozen=True)
class Carried:
    """What the relay's log says of turns of one segment each way, one value per turn."""

    request_arrived: Times
    request_left: Times
    answer_arrived: Times
    answer_left: Times

    @property
    def network(self) -> Times:
        """How long the relay had the request, and the answer."""
        return self.request_left - self.request_arrived + self.answer_left - self.answer_arrived

    @property
    def peer(self) -> Times:
        """How long the server's host had the turn."""
        return self.answer_arrived - self.request_left

    @property
    def wire(self) -> Times:
        """From the request's leaving the client's host to the answer's coming there."""
        return self.answer_left - self.request_arrived


def carried(log: Log, port: int, turns: int, *, since_ns: int = 0) -> Carried:
    """The turns of the connection with this client port, in the order in which they were taken.

    `since_ns` leaves out what an earlier connection with this port sent.
    """
    sent = []
    for direction, column in ((0, "source_port"), (1, "destination_port")):
        data = log[(log["direction"] == direction) & (log[column] == port) & (log["payload"] > 0)]
        data = data[data["arrived_ns"] >= since_ns]
        data = data[data["arrived_ns"].argsort()]
        assert len(data) >= turns, f"{len(data)} data segments instead of {turns}"
        sent.append(data[:turns])
    for segments in sent:
        assert len(np.unique(segments["sequence"])) == turns, "a segment went twice: the host was too busy"
    out, back = sent
    return Carried(out["arrived_ns"], out["left_ns"], back["arrived_ns"], back["left_ns"])


def without_jitter(link: Link) -> Link:
    """Let the relay go before everything else: a network does not wait for a CPU of the hosts."""
    assert link._child
    with contextlib.suppress(PermissionError):  # then it jitters, and its log says so
        os.sched_setscheduler(link._child.pid, os.SCHED_FIFO, os.sched_param(10))
    return link


SPIN = """
import os, signal
signal.alarm(60)
os.sched_setaffinity(0, {%d})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while os.getppid() == %d:
    for _ in range(100_000):
        pass
"""


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """No CPU goes to sleep: one that does takes 100 us and more to take a packet, which no log tells.

    On each a process spins that gives way to everything else.
    """
    spinners = []
    try:
        for cpu in os.sched_getaffinity(0):
            command = [sys.executable, "-S", "-c", SPIN % (cpu, os.getpid())]
            spinners.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


@contextlib.contextmanager
def punctual() -> Iterator[None]:
    """The calling thread goes before everything else: its pauses are as long as it says."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def kernel_counts(space: Namespace) -> dict[str, int]:
    """The kernel's own TcpExt counters of a namespace (proc_net_netstat)."""
    text = space.run(Path("/proc/thread-self/net/netstat").read_text)
    names, values = re.findall(r"^TcpExt: (.*)$", text, re.MULTILINE)
    return {name: int(value) for name, value in zip(names.split(), values.split(), strict=True)}


def growth(before: dict[str, int], after: dict[str, int], *names: str) -> dict[str, int]:
    """By how much these counters grew, those that did."""
    return {name: after[name] - before[name] for name in names if after[name] != before[name]}


def run_delay(pid: int | str = "thread-self") -> int:
    """How long the kernel has let a thread wait for a CPU so far, ns (sched-stats, schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
