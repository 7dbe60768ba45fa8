"""Connections that are open already: each found once, in every namespace, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import require, why_no_recording
from drive import LIMIT_SECONDS, SERVER, Background, comm, connect, listen, pair_of, receive
from recording import READY_SECONDS, Recording, Row
from tcptrace.acquire import seed
from tcptrace.lab.namespaces import SIDE_B, Namespace, enter
from tcptrace.trace import wire

Wired = tuple[Namespace, Namespace]
Record = Callable[..., Recording]


def key(row: Row) -> tuple[int, int, int]:
    return row["netns"], row["local_port"], row["remote_port"]


def keys_of(one: socket.socket, space: int, peer_space: int) -> set[tuple[int, int, int]]:
    """The rows of both ends of a connected socket's connection."""
    local, remote = one.getsockname()[1], one.getpeername()[1]
    return {(space, local, remote), (peer_space, remote, local)}


def test_what_is_open_in_three_namespaces_is_found_once(wired: Wired, record: Record) -> None:
    a, b = wired
    with Namespace() as c, contextlib.ExitStack() as stack:
        expected: set[tuple[int, int, int]] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for one in pair_of(a, b, family=family):
                stack.enter_context(one)
            expected |= keys_of(one, b.inode, a.inode)
        listener = stack.enter_context(listen(c))
        for _ in range(3):
            one = stack.enter_context(connect(c, "127.0.0.1"))
            stack.enter_context(listener.accept()[0])
            expected |= keys_of(one, c.inode, c.inode)
        recording = record(*(f"--netns={space.inode}" for space in (a, b, c)))
        rows = recording.stop()
        header = recording.info()["header"]
    assert Counter(key(row) for row in rows) == Counter(expected)
    for row in rows:
        assert row["left_censored"] and row["right_censored"]
        assert row["role"] == "unknown" and row["close_reason"] == "open" and row["state"] == "established"
        assert (row["pid"], row["comm"]) == (os.getpid(), comm())
        assert row["started_ns"] is None and row["ended_ns"] is None and row["handshake_ns"] is None
    assert header["seeded"]["connections"] == len(rows)
    assert header["seeded"]["namespaces"] >= 4
    assert header["seeded"]["failed"] == []


class Churn(Background):
    """Connections that open and close all the time; what is known of each is when."""

    def __init__(self, a: Namespace, b: Namespace) -> None:
        super().__init__()
        self.a, self.b = a, b
        self.lives: list[dict[str, Any]] = []
        """port, opening_ns and opened_ns around connect(), closing_ns before close(), if it was closed"""

    def work(self) -> None:
        with listen(self.b) as listener:
            held: list[tuple[dict[str, Any], socket.socket, socket.socket]] = []
            while not self.stopping.is_set():
                life: dict[str, Any] = {"opening_ns": time.monotonic_ns()}
                client = connect(self.a, SIDE_B.ipv4)
                life |= {"opened_ns": time.monotonic_ns(), "port": client.getsockname()[1]}
                held.append((life, client, listener.accept()[0]))
                self.lives.append(life)
                # lives of 1 to 60 connections' time
                while len(held) > 1 + len(self.lives) % 60:
                    self._close(*held.pop(len(self.lives) * 7 % len(held)))
            for one in held:
                self._close(*one)

    def _close(self, life: dict[str, Any], client: socket.socket, server: socket.socket) -> None:
        life["closing_ns"] = time.monotonic_ns()
        client.close()
        assert receive(server, 1) == b""
        server.close()


def test_nothing_is_lost_or_doubled_while_connections_come_and_go(wired: Wired, record: Record) -> None:
    """Several recordings start in the middle of it, and each must tell exactly what it could see."""
    a, b = wired
    recordings: list[tuple[Recording, int, int]] = []
    with Churn(a, b) as churn:
        for _ in range(5):
            begun = time.monotonic_ns()
            recording = record("--netns", a.inode, "--netns", b.inode)
            recordings.append((recording, begun, time.monotonic_ns()))
    assert len({life["port"] for life in churn.lives}) == len(churn.lives) > 500
    raced = 0
    for recording, begun, ready in recordings:
        rows = recording.stop()
        found = Counter(key(row) for row in rows)
        assert set(found.values()) == {1}, "doubled"
        by_key = {key(row): row for row in rows}
        expected = set()
        for life in churn.lives:
            ends = {(a.inode, life["port"], SERVER), (b.inode, SERVER, life["port"])}
            expected |= ends
            mine = [by_key[end] for end in ends if end in by_key]
            if life["closing_ns"] > ready:
                assert len(mine) == 2, f"lost: {life} of a recording begun at {begun}, ready at {ready}"
                raced += life["closing_ns"] < ready + 10**9 and begun < life["opening_ns"] < ready
                assert {row["close_reason"] for row in mine} == {"fin"}
            if life["closing_ns"] < begun:
                # its last ACK may still be on its way
                assert not mine or life["closing_ns"] > begun - 10**9
            if life["opened_ns"] < begun:
                assert all(row["left_censored"] and row["started_ns"] is None for row in mine)
            if life["opening_ns"] > ready:
                assert not any(row["left_censored"] for row in mine)
                assert all(row["started_ns"] is not None for row in mine)
        assert set(by_key) <= expected
    assert raced > 10, "hardly any connection opened between start and ready"


def test_a_holder_is_the_one_process_that_has_the_socket() -> None:
    with socket.socket() as own, socket.socket() as shared, socket.socket() as gone:
        os.set_inheritable(shared.fileno(), True)
        inodes = [os.fstat(one.fileno()).st_ino for one in (own, shared, gone)]
        gone.close()
        with subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            pass_fds=[shared.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as child:  # fmt: skip
            assert child.stdin and child.stdout
            child.stdout.readline()
            found = seed.holders()
            child.communicate(b"\n", timeout=LIMIT_SECONDS)
        holder = np.frombuffer(found[np.uint64(inodes[0]).tobytes()], wire.HOLDER)[0]
        assert (holder["pid"], holder["comm"].decode()) == (os.getpid(), comm())
        assert np.uint64(inodes[1]).tobytes() not in found, "two processes hold it"
        assert np.uint64(inodes[2]).tobytes() not in found
        alone = seed.holders()
        assert np.uint64(inodes[1]).tobytes() in alone


def test_at_most_so_many_holders() -> None:
    with socket.socket(), socket.socket():
        assert len(seed.holders(limit=1)) == 1


def bare_namespace() -> subprocess.Popen[bytes]:
    """A process in a namespace of its own that has no name, with its loopback up."""
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo && exec sleep 60"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    )
    assert process.stdout and process.stdout.readline() == b"\n"
    return process


@contextlib.contextmanager
def connected_in(path: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection over the loopback of the namespace behind a path."""
    ends: list[socket.socket] = []

    def inside() -> None:
        with open(path) as file:
            enter(file.fileno())
        with socket.create_server(("127.0.0.1", SERVER)) as listener:
            ends.append(socket.create_connection(("127.0.0.1", SERVER)))
            ends.append(listener.accept()[0])

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    with ends[0], ends[1]:
        yield ends[0], ends[1]


def test_a_namespace_that_only_a_process_keeps_alive_is_entered(record: Record) -> None:
    with bare_namespace() as process:
        try:
            path = f"/proc/{process.pid}/ns/net"
            inode = os.stat(path).st_ino
            assert inode in seed.namespaces()
            with connected_in(path) as (client, _):
                expected = keys_of(client, inode, inode)
                rows = record("--netns", inode).stop()
        finally:
            process.kill()
    assert {key(row) for row in rows} == expected and len(rows) == 2
    assert all(row["left_censored"] for row in rows)


@pytest.mark.parametrize("name", ["bound", "two words", "back\\slash"])
def test_a_namespace_that_only_a_mount_keeps_alive_is_entered(
    record: Record, tmp_path: Path, name: str
) -> None:
    bound = tmp_path / name
    bound.touch()
    with bare_namespace() as process:
        try:
            inode = os.stat(f"/proc/{process.pid}/ns/net").st_ino
            subprocess.run(["mount", "--bind", f"/proc/{process.pid}/ns/net", bound], check=True)
        finally:
            process.kill()
    try:
        assert seed.namespaces()[inode] == str(bound)
        with connected_in(str(bound)) as (client, _):
            expected = keys_of(client, inode, inode)
            rows = record("--netns", bound).stop()
    finally:
        subprocess.run(["umount", bound], check=True)
    assert {key(row) for row in rows} == expected and len(rows) == 2
    assert all(row["left_censored"] for row in rows)
    assert inode not in seed.namespaces()


def test_without_cap_sys_admin_the_own_namespace_is_walked(tmp_path: Path) -> None:
    """No namespace can be entered then, but this one need not be."""
    require(not why_no_recording(), why_no_recording())
    with (
        Namespace() as space,
        listen(space) as listener,
        connect(space, "127.0.0.1") as client,
        listener.accept()[0],
    ):
        expected = keys_of(client, space.inode, space.inode)
        recording = Recording(tmp_path / "caps.tct", ["--netns", str(space.inode)], space=Limited(space))
        try:
            rows = recording.stop()
            header = recording.info()["header"]
        finally:
            recording.abandon()
    assert {key(row) for row in rows} == expected
    assert header["seeded"]["namespaces"] == 1
    assert header["seeded"]["failed"][0] == f"any but {space.inode}: Operation not permitted"


class Limited(Namespace):
    """A namespace whose processes may record, but not enter other namespaces."""

    def __init__(self, space: Namespace) -> None:
        self._space = space

    def popen(self, command: Any, **options: Any) -> subprocess.Popen[Any]:
        kept = "--bounding-set=-all,+bpf,+perfmon,+net_admin"
        return self._space.popen(["setpriv", kept, *command], **options)


def test_a_name_that_ip_netns_left_behind_is_no_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wired: Wired
) -> None:
    (tmp_path / "stale").touch(0)
    (tmp_path / "dangling").symlink_to("/proc/0/ns/net")
    (tmp_path / "real").symlink_to(wired[0].path)
    monkeypatch.setattr(seed, "NAMED_NAMESPACES", str(tmp_path))
    assert seed.namespace_names() == {wired[0].inode: "real"}
    assert os.stat(tmp_path / "stale").st_ino not in seed.namespaces()
    assert seed.walk(lambda: None).failed == []
    monkeypatch.setattr(seed, "NAMED_NAMESPACES", str(tmp_path / "missing"))
    assert seed.namespace_names() == {}
    assert wired[0].inode in seed.namespaces()


def test_a_namespace_is_entered_by_another_path_when_one_goes_away(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings = []
    listed = seed.namespaces

    def first_through_a_process_that_ends() -> dict[int, str]:
        listings.append(listed())
        return {**listings[-1], wired[0].inode: "/proc/0/ns/net"} if len(listings) == 1 else listings[-1]

    monkeypatch.setattr(seed, "namespaces", first_through_a_process_that_ends)
    visited: list[int] = []
    seed.walk(lambda: visited.append(os.stat("/proc/thread-self/ns/net").st_ino))
    assert len(listings) == 2
    assert visited.count(wired[0].inode) == 1
    assert len(visited) == len(set(visited))


def test_an_error_of_what_runs_is_raised_and_ends_the_walk() -> None:
    calls = []

    def fails() -> None:
        calls.append(os.stat("/proc/thread-self/ns/net").st_ino)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        seed.walk(fails)
    assert len(calls) == 1


def test_the_walk_enters_each_namespace_once_and_leaves_the_caller_where_it_is(wired: Wired) -> None:
    here = os.stat("/proc/thread-self/ns/net").st_ino
    visited: list[int] = []
    result = seed.walk(lambda: visited.append(os.stat("/proc/thread-self/ns/net").st_ino))
    assert visited == result.inodes and len(visited) == len(set(visited))
    assert {here, wired[0].inode, wired[1].inode} <= set(visited)
    assert os.stat("/proc/thread-self/ns/net").st_ino == here
    names = seed.namespace_names()
    assert names[wired[0].inode] == wired[0].name and names[wired[1].inode] == wired[1].name


def test_it_is_recording_within_two_seconds_with_many_sockets_open(record: Record, wired: Wired) -> None:
    a, b = wired
    with contextlib.ExitStack() as stack, listen(b) as listener:
        for _ in range(400):
            stack.enter_context(connect(a, SIDE_B.ipv4))
            stack.enter_context(listener.accept()[0])
        best = READY_SECONDS
        for _ in range(3):
            begun = time.monotonic()
            recording = record("--netns", b.inode)
            best = min(best, time.monotonic() - begun)
            assert len(recording.stop()) == 400
    assert best < 2
