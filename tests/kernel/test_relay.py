"""The link: what it carries, delays and drops, and that its log is the truth about it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from drive import SERVER, connect, listen, pair_of, poll, receive
from tcptrace.errors import TcptraceError
from tcptrace.lab import namespaces
from tcptrace.lab.faults import Drop, Late
from tcptrace.lab.link import Link, Log
from tcptrace.lab.namespaces import SIDE_B
from tcptrace.lab.packet import ACK, FIN, RST, SYN

MakeLink = Callable[..., Link]
MS = 1_000_000


def syns(log: Log) -> Log:
    return log[(log["flags"] & (SYN | ACK)) == SYN]


def fins(log: Log) -> Log:
    return log[(log["flags"] & FIN) != 0]


def kept_ns(log: Log) -> npt.NDArray[np.int64]:
    """How long the link had each packet."""
    kept: npt.NDArray[np.int64] = log["left_ns"] - log["arrived_ns"]
    return kept


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_in_the_log_as_it_was(linked: MakeLink, family: int) -> None:
    link = linked()
    client, server = pair_of(link.a, link.b, family=family)
    with client, server:
        port = client.getsockname()[1]
        server.sendall(b"x" * 5000)
        assert len(receive(client, 5000)) == 5000
        client.close()
        assert server.recv(1) == b""
        server.close()
    log = link.wait_for(lambda log: len(fins(log)) == 2)
    assert (log["family"] == (4 if family == socket.AF_INET else 6)).all()
    assert (log["flow"] == 0).all() and (log["rule"] == -1).all()
    out, back = log[log["direction"] == 0], log[log["direction"] == 1]
    assert (out["source_port"] == port).all() and (out["destination_port"] == SERVER).all()
    assert (back["source_port"] == SERVER).all() and (back["destination_port"] == port).all()
    assert [one["flags"] for one in log[:3]] == [SYN, SYN | ACK, ACK]
    assert log[1]["acknowledgement"] == (int(log[0]["sequence"]) + 1) % 2**32
    # By their ends: a busy host repeats what is not acknowledged soon enough.
    ends = back["sequence"] - log[1]["sequence"] - 1 + back["payload"]
    assert ends[back["payload"] > 0].max() == 5000 and out["payload"].sum() == 0
    assert (log["left_ns"] >= log["arrived_ns"]).all()


def test_delay_adds_to_every_packet_and_the_log_says_how_much(linked: MakeLink) -> None:
    link = linked(delay_ns=10 * MS)
    with listen(link.b) as listener:
        started = time.monotonic_ns()
        client = connect(link.a, SIDE_B.ipv4)
        took = time.monotonic_ns() - started
        with client:
            listener.accept()[0].close()
    log = link.wait_for(lambda log: len(log) >= 3)
    delays = log["left_ns"] - log["arrived_ns"]
    assert (delays >= 10 * MS).all()
    assert np.median(delays) < 20 * MS  # a busy host is late, never early
    # What the client saw is what the log says, plus two kernels' work.
    known = int(log[1]["left_ns"] - log[0]["arrived_ns"])
    assert known <= took < known + 20 * MS


def test_delay_by_flow(linked: MakeLink) -> None:
    link = linked(flow_delays_ns=(2 * MS, 12 * MS))
    with listen(link.b):
        for _ in range(4):
            connect(link.a, SIDE_B.ipv4).close()
    log = link.wait_for(lambda log: len(np.unique(log["flow"])) == 4 and len(fins(log)) == 4)
    for flow in range(4):
        delays = (log["left_ns"] - log["arrived_ns"])[log["flow"] == flow]
        low = (2, 12)[flow % 2] * MS
        assert (delays >= low).all() and np.median(delays) < low + 8 * MS


def test_first_syn_and_first_synack_are_lost_once(linked: MakeLink) -> None:
    link = linked(drops=[Drop("syn", nth=(1,)), Drop("synack", nth=(1,), name="second rule")])
    link.b.sysctl("net.ipv4.tcp_synack_retries", 5)
    with listen(link.b), connect(link.a, SIDE_B.ipv4, timeout=5):
        log = link.wait_for(lambda log: (log["flags"] == ACK).any())
    assert syns(log)["rule"][:2].tolist() == [0, -1]
    assert (syns(log)["left_ns"][0] == -1) and (syns(log)["left_ns"][1] > 0)
    answers = log[log["flags"] & (SYN | ACK) == SYN | ACK]
    assert answers["rule"].tolist()[:2] == [1, -1]


def test_second_data_segment_of_one_direction_is_lost_and_retransmitted(linked: MakeLink) -> None:
    link = linked(delay_ns=MS, drops=[Drop("data", nth=(2,), direction="ba")])
    client, server = pair_of(link.a, link.b)
    with client, server:
        # Without a pause the three writes would leave as one or two segments.
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for text in (b"one", b"two", b"six"):
            server.sendall(text)
            client.sendall(text)
        assert receive(client, 9) == b"onetwosix"
        assert receive(server, 9) == b"onetwosix"

    def repeated(log: Log) -> bool:
        lost = log[log["rule"] == 0]
        again = log[(log["direction"] == 1) & (log["left_ns"] > 0) & (log["payload"] > 0)]
        return len(lost) == 1 and bool(np.isin(lost["sequence"], again["sequence"]).all())

    log = link.wait_for(repeated)
    assert log[log["rule"] == 0]["direction"].tolist() == [1]


def test_a_packet_that_is_kept_back_is_overtaken_and_nothing_is_lost(linked: MakeLink) -> None:
    link = linked(delay_ns=MS, lates=[Late("data", nth=(2,), direction="ab", by_ns=20 * MS)])
    client, server = pair_of(link.a, link.b)
    with client, server:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for text in (b"one", b"two", b"six"):
            client.sendall(text)
        assert receive(server, 9) == b"onetwosix"
    log = link.wait_for(lambda log: len(fins(log)) == 2 and (kept_ns(log) >= 21 * MS).any())
    assert (log["rule"] == -1).all()
    data = log[(log["direction"] == 0) & (log["payload"] > 0)]  # in the order in which they left
    offsets = (data["sequence"] - data["sequence"][0]).tolist()  # a sender may repeat what is only late
    assert offsets.index(0) < offsets.index(6) < len(offsets) - 1 - offsets[::-1].index(3)
    assert 3 in np.array(offsets)[kept_ns(data) >= 21 * MS]


def test_a_flow_that_idled_is_dead_and_others_live(linked: MakeLink) -> None:
    link = linked(drops=[Drop(idle_s=0.3)])
    with listen(link.b) as listener:
        client = connect(link.a, SIDE_B.ipv4)
        server = listener.accept()[0]
        with client, server:
            client.sendall(b"a")
            assert server.recv(1) == b"a"
            link.wait_for(lambda log: bool(len(log)) and time.monotonic_ns() - log["arrived_ns"].max() > 3e8)
            client.sendall(b"b")
            link.wait_for(lambda log: bool((log["rule"] == 0).sum() >= 2), seconds=5)
            with connect(link.a, SIDE_B.ipv4) as other, listener.accept()[0] as partner:
                other.sendall(b"c")
                assert partner.recv(1) == b"c"
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.recv(1)


def test_reset_crosses(linked: MakeLink) -> None:
    link = linked()
    with pytest.raises(ConnectionRefusedError):
        connect(link.a, SIDE_B.ipv4)
    log = link.wait_for(lambda log: len(log) == 2)
    assert log[1]["flags"] == RST | ACK


@pytest.mark.parametrize("end", ["SIGTERM", "input closed", "life"])
def test_the_relay_ends(end: str) -> None:
    with namespaces.pair(wired=False) as (a, b), Link(a, b, life_s=0.2 if end == "life" else 60) as link:
        child = link._child
        assert child and child.stdin
        if end == "SIGTERM":
            os.kill(child.pid, signal.SIGTERM)
        elif end == "input closed":
            child.stdin.close()
        assert child.wait(5) == 0
        poll(lambda: "NO-CARRIER" in a.check(["ip", "link", "show", link.device]).stdout)


def test_a_relay_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with namespaces.pair(wired=False) as (a, b):
        link = Link(a, b)
        link._config["b"] = [str(b.path), "no/such:device"]
        with pytest.raises(TcptraceError, match="did not start: OSError"), link:
            pass
        assert not Path(link._path).exists()
