"""Each filter selects exactly its connections; repeated ones are alternatives, different ones all hold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from drive import receive, wait_closed
from recording import Recording, Row
from tcptrace.lab import namespaces
from tcptrace.lab.namespaces import SIDE_B, Namespace

Wired = tuple[Namespace, Namespace]
Record = Callable[..., Recording]

PORTS = (7701, 7702, 7703)
OTHER = "10.88.0.3"
CLIENT = """
import socket, sys
open("/proc/self/comm", "w").write(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    address, port = line.split()
    s = socket.create_connection((address, int(port)))
    s.sendall(b"x")
    assert s.recv(1) == b""
    s.close()
    print("done", flush=True)
"""


class Client:
    """A process of its own that connects when told to and closes after the server."""

    def __init__(self, space: Namespace, name: str) -> None:
        self.process = space.popen(
            [sys.executable, "-c", CLIENT, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answer("ready")

    def answer(self, text: str) -> None:
        assert self.process.stdout and self.process.stdout.readline() == f"{text}\n"

    def connect(self, address: str, port: int) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{address} {port}\n")
        self.process.stdin.flush()


@dataclass(frozen=True)
class Truth:
    """One end of one connection that happened."""

    netns: int
    local_port: int
    remote_addr: str
    remote_port: int
    pid: int
    comm: str

    def touches(self, port: int) -> bool:
        return port in (self.local_port, self.remote_port)


class World:
    """Two named clients in a, servers in b: every client to every port and both of b's addresses."""

    def __init__(self, a: Namespace, b: Namespace) -> None:
        self.a, self.b = a, b
        namespaces.ip("-n", b.name, "addr", "add", f"{OTHER}/24", "dev", "veth0")
        self.clients = {name: Client(a, name) for name in ("first", "second")}
        self.listeners = {}
        for port in PORTS:
            listener = b.socket()
            listener.bind(("", port))
            listener.listen()
            listener.settimeout(10)
            self.listeners[port] = listener
        with open("/proc/self/comm") as own:
            self.comm = own.read().strip()

    def pid(self, name: str) -> int:
        return self.clients[name].process.pid

    def play(self) -> list[Truth]:
        """Make every connection once, servers closing first. Returns every end."""
        truth = []
        for name, client in self.clients.items():
            for port, listener in self.listeners.items():
                for address in (SIDE_B.ipv4, OTHER):
                    client.connect(address, port)
                    server, (peer, peer_port) = listener.accept()
                    assert receive(server, 1) == b"x"
                    server.close()
                    client.answer("done")
                    truth.append(Truth(self.a.inode, peer_port, address, port, self.pid(name), name))
                    truth.append(Truth(self.b.inode, port, peer, peer_port, os.getpid(), self.comm))
        wait_closed(self.a, *(one.local_port for one in truth))
        wait_closed(self.b, *PORTS)
        return truth


@pytest.fixture
def world(wired: Wired) -> Iterator[World]:
    made = World(*wired)
    try:
        yield made
    finally:
        for listener in made.listeners.values():
            listener.close()


def as_truth(row: Row) -> Truth:
    return Truth(
        row["netns"], row["local_port"], row["remote_addr"], row["remote_port"], row["pid"], row["comm"]
    )


CASES: dict[str, tuple[Callable[[World], list[Any]], Callable[[World, Truth], bool]]] = {
    "port": (lambda w: ["--port", 7701], lambda w, t: t.touches(7701)),
    "two ports": (
        lambda w: ["--port", 7701, "--port", 7703],
        lambda w, t: t.touches(7701) or t.touches(7703),
    ),
    "peer address": (lambda w: ["--peer", OTHER], lambda w, t: t.remote_addr == OTHER),
    "peer network": (
        lambda w: ["--peer", "10.88.0.2/31"],
        lambda w, t: t.remote_addr in (SIDE_B.ipv4, OTHER),
    ),
    "peer of the other family": (lambda w: ["--peer", "fd88::/64"], lambda w, t: False),
    "pid": (lambda w: ["--pid", w.pid("first")], lambda w, t: t.comm == "first"),
    "two pids": (
        lambda w: ["--pid", w.pid("first"), "--pid", w.pid("second")],
        lambda w, t: t.comm in ("first", "second"),
    ),
    "comm": (lambda w: ["--comm", "second"], lambda w, t: t.comm == "second"),
    "part of a comm": (lambda w: ["--comm", "secon"], lambda w, t: False),
    "netns by inode": (lambda w: ["--netns", w.a.inode], lambda w, t: t.netns == w.a.inode),
    "netns by name": (lambda w: ["--netns", w.b.name], lambda w, t: t.netns == w.b.inode),
    "netns by path": (lambda w: ["--netns", w.b.path], lambda w, t: t.netns == w.b.inode),
    "port and peer": (
        lambda w: ["--port", 7702, "--peer", OTHER],
        lambda w, t: t.touches(7702) and t.remote_addr == OTHER,
    ),
    "two ports and netns and comm": (
        lambda w: ["--port", 7701, "--port", 7702, "--netns", w.a.inode, "--comm", "first"],
        lambda w, t: (t.touches(7701) or t.touches(7702)) and t.netns == w.a.inode and t.comm == "first",
    ),
    "pid and comm of another": (
        lambda w: ["--pid", w.pid("first"), "--comm", "second"],
        lambda w, t: False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_filter(world: World, record: Record, case: str) -> None:
    arguments, wanted = CASES[case]
    recording = record(*arguments(world))
    truth = world.play()
    assert len({*truth}) == 24
    rows = recording.stop()
    spaces = (world.a.inode, world.b.inode)
    found = sorted((as_truth(row) for row in rows if row["netns"] in spaces), key=repr)
    assert found == sorted((one for one in truth if wanted(world, one)), key=repr)
    if "--netns" in arguments(world):
        assert len(found) == len(rows), "rows of other namespaces"


def test_filters_hold_for_what_is_open_already(world: World, record: Record) -> None:
    """A connection of another port is neither seeded nor recorded when it closes."""
    kept = []
    for port in PORTS:
        client = world.a.socket()
        client.connect((SIDE_B.ipv4, port))
        kept.append((client, world.listeners[port].accept()[0]))
    recording = record("--port", PORTS[1])
    for client, server in kept[:2]:
        client.close()
        assert receive(server, 1) == b""
        server.close()
    wait_closed(world.b, *PORTS[:2])
    rows = [row for row in recording.stop() if row["netns"] in (world.a.inode, world.b.inode)]
    assert len(rows) == 2
    assert all(PORTS[1] in (row["local_port"], row["remote_port"]) for row in rows)
    assert all(row["left_censored"] and row["close_reason"] == "fin" for row in rows)
    for client, server in kept[2:]:
        client.close()
        server.close()
