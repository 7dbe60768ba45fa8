"""What the kernel prints in /proc/net, read into counters and sockets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.lab import kernel_counters
from tcptrace.lab.kernel_counters import ESTABLISHED, LISTEN, SYN_RECV, TIME_WAIT

NETSTAT = """\
TcpExt: SyncookiesSent SyncookiesRecv ListenOverflows
TcpExt: 12 3 0
IpExt: InNoRoutes InOctets
IpExt: 0 98765432109
"""
SNMP = """\
Ip: Forwarding DefaultTTL
Ip: 2 64
Tcp: RtoAlgorithm MaxConn ActiveOpens
Tcp: 1 -1 7
"""
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
TAIL = " 00000000:00000000 00:00000000 00000000     0        0 1234 1 0000000000000000 100 0 0 10 0\n"
TCP = (
    HEADER
    + f"   0: 00000000:1B59 00000000:0000 0A{TAIL}"  # *:7001 listens
    + f"   1: 0258580A:1B59 0100120A:0409 03{TAIL}"  # a request to 7001, half open
    + f"   2: 0158580A:4E20 0258580A:1B5A 06{TAIL}"  # our port 20000 to 7002, waits
    + f"   3: 0158580A:0016 0258580A:C000 01{TAIL}"  # somebody else's, port 22
)
TCP6 = HEADER + "   0: 000088FD000000000000000001000000:C001 000088FD000000000000000002000000:1B59 01" + TAIL


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Files as the kernel has them; there is an IPv6."""
    for name, text in (("netstat", NETSTAT), ("snmp", SNMP), ("tcp", TCP), ("tcp6", TCP6)):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kernel_counters, "FILES", [tmp_path / "netstat", tmp_path / "snmp"])
    monkeypatch.setattr(kernel_counters, "TABLES", [tmp_path / "tcp", tmp_path / "tcp6"])
    return tmp_path


def test_counters_are_named_as_nstat_names_them(proc: Path) -> None:
    assert kernel_counters.read() == {
        "TcpExtSyncookiesSent": 12,
        "TcpExtSyncookiesRecv": 3,
        "TcpExtListenOverflows": 0,
        "IpExtInNoRoutes": 0,
        "IpExtInOctets": 98765432109,
        "IpForwarding": 2,
        "IpDefaultTTL": 64,
        "TcpRtoAlgorithm": 1,
        "TcpMaxConn": -1,
        "TcpActiveOpens": 7,
    }


def test_a_line_with_more_names_than_values_is_refused(proc: Path) -> None:
    (proc / "netstat").write_text("TcpExt: One Two\nTcpExt: 1\n")
    with pytest.raises(ValueError, match="zip"):
        kernel_counters.read()


def test_only_counters_that_changed_are_told() -> None:
    before = {"same": 5, "more": 5, "less": 5, "gone": 1}
    assert kernel_counters.difference(before, {"same": 5, "more": 8, "less": 4, "new": 2, "none": 0}) == {
        "more": 3,
        "less": -1,
        "new": 2,
    }


@given(st.dictionaries(st.text(), st.integers()), st.dictionaries(st.text(), st.integers(min_value=0)))
def test_before_and_difference_make_after(before: dict[str, int], grown: dict[str, int]) -> None:
    after = before | {name: before.get(name, 0) + more for name, more in grown.items()}
    changes = kernel_counters.difference(before, after)
    assert 0 not in changes.values()
    assert {name: before.get(name, 0) + changes.get(name, 0) for name in after} == after


def test_sockets_are_found_by_either_end(proc: Path) -> None:
    assert kernel_counters.sockets([7001]) == [
        (7001, 0, LISTEN),
        (7001, 1033, SYN_RECV),
        (49153, 7001, ESTABLISHED),
    ]
    assert kernel_counters.sockets([7002]) == [(20000, 7002, TIME_WAIT)]
    assert kernel_counters.sockets([20000, 7003]) == [(20000, 7002, TIME_WAIT)]
    assert kernel_counters.states([7001]) == [LISTEN, SYN_RECV, ESTABLISHED]


def test_a_port_in_an_address_is_no_match(proc: Path) -> None:
    assert kernel_counters.sockets([0x0258, 0x580A]) == []


def test_without_ipv6_there_is_its_table_less(proc: Path) -> None:
    (proc / "tcp6").unlink()
    assert kernel_counters.states([7001]) == [LISTEN, SYN_RECV]


def test_listeners_and_time_wait_do_not_live(proc: Path) -> None:
    assert kernel_counters.living([7001])
    assert not kernel_counters.living([7002])
    assert not kernel_counters.living([7099])


def test_this_kernel_says_the_same_of_a_real_connection() -> None:
    before = kernel_counters.read()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0]:
            mine = client.getsockname()[1]
            found = kernel_counters.sockets([port])
            assert {(port, mine, ESTABLISHED), (mine, port, ESTABLISHED), (port, 0, LISTEN)} == set(found)
            assert kernel_counters.living([port])
    assert kernel_counters.difference(before, kernel_counters.read())["TcpActiveOpens"] >= 1
