"""Namespaces: separate, usable from threads, and gone afterwards whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tcptrace.errors import HostError, TcptraceError
from tcptrace.lab import namespaces
from tcptrace.lab.namespaces import DIRECTORY, PREFIX, SIDE_A, SIDE_B, Namespace

MAKE_TWO = """
import os, signal, sys
from tcptrace.lab.namespaces import Namespace
with Namespace() as a:
    b = Namespace()
    sleeper = a.popen(["sleep", "60"])
    print(a.name, b.name, sleeper.pid, flush=True)
    sys.stdin.read()
    if sys.argv[1] == "exception": raise RuntimeError
    if sys.argv[1] == "exit": os.write(1, b""); sys.exit(3)
"""


def names_of(pid: int) -> list[str]:
    return sorted(path.name for path in DIRECTORY.glob(f"{PREFIX}{pid}-*"))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_sockets_made_inside_reach_the_other_side(wired: tuple[Namespace, Namespace], family: int) -> None:
    a, b = wired
    target = SIDE_B.ipv4 if family == socket.AF_INET else SIDE_B.ipv6
    own = SIDE_A.ipv4 if family == socket.AF_INET else SIDE_A.ipv6
    with b.socket(family) as listener, a.socket(family) as client:
        listener.bind((target, 0))
        listener.listen()
        client.connect((target, listener.getsockname()[1]))
        server, peer = listener.accept()
        with server:
            assert peer[0] == own
            server.sendall(b"hello")
            assert client.recv(5) == b"hello"


def test_each_address_is_its_own_ends_as_soon_as_there_is_a_link() -> None:
    for _ in range(3):
        with namespaces.pair() as ends:
            for space, side in zip(ends, (SIDE_A, SIDE_B), strict=True):
                for address in (side.ipv4, side.ipv6):
                    routes = space.check(["ip", "route", "get", address]).stdout
                    assert routes.startswith("local "), (address, routes)


def test_each_namespace_has_its_own_sysctls(wired: tuple[Namespace, Namespace]) -> None:
    a, b = wired
    before = b.sysctl("net.ipv4.tcp_syn_retries")
    assert a.sysctl("net.ipv4.tcp_syn_retries", 1) == "1"
    assert b.sysctl("net.ipv4.tcp_syn_retries") == before
    with pytest.raises(HostError, match=r"sysctl net\.ipv4\.no_such_thing"):
        a.sysctl("net.ipv4.no_such_thing")


def test_results_and_exceptions_come_back_and_the_caller_stays_outside() -> None:
    here = Path("/proc/thread-self/ns/net").stat().st_ino
    with Namespace() as space:
        assert space.run(lambda: Path("/proc/thread-self/ns/net").stat().st_ino) == space.inode != here
        with pytest.raises(ZeroDivisionError):
            space.run(lambda: 1 // 0)
        assert space.check(["readlink", "/proc/self/ns/net"]).stdout.strip() == f"net:[{space.inode}]"
        with pytest.raises(TcptraceError, match="cat /no/such/file"):
            space.check(["cat", "/no/such/file"])
        with pytest.raises(HostError, match="no-such-command"):
            space.check(["no-such-command"])
    assert Path("/proc/thread-self/ns/net").stat().st_ino == here


@pytest.mark.parametrize("end", ["exception", "exit", "SIGTERM", "SIGHUP", "SIGINT"])
def test_nothing_is_left_behind(end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKE_TWO, end],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as child:  # fmt: skip
        assert child.stdin and child.stdout
        first, second, sleeper = child.stdout.readline().split()
        assert names_of(child.pid) == sorted([first, second])
        if end.startswith("SIG"):
            child.send_signal(getattr(signal, end))
        child.stdin.close()
        child.wait(10)
        assert names_of(child.pid) == []
        assert not Path("/proc", sleeper).exists()


def test_a_fork_removes_nothing() -> None:
    with Namespace() as space:
        child = os.fork()
        if not child:
            space.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert space.path.exists()


def test_what_a_killed_process_left_is_swept() -> None:
    with Namespace() as mine:
        with subprocess.Popen(
            [sys.executable, "-c", MAKE_TWO, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin and child.stdout
            first, second, sleeper = child.stdout.readline().split()
            child.kill()
            child.wait(10)
        os.kill(int(sleeper), signal.SIGKILL)
        assert set(namespaces.sweep()) >= {first, second}
        assert mine.path.exists(), "the living keep theirs"
        assert names_of(child.pid) == []
