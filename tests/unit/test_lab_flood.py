"""The flood's packets, and that it is bounded; nothing is sent here."""

from __future__ import annotations

import ipaddress
import socket
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.errors import HostError
from tcptrace.lab import flood
from tcptrace.lab.flood import ADDRESSES, MOST_PACKETS, NETWORK, Flood, Pace
from tcptrace.lab.packet import SYN, parse

TARGET = "10.88.0.2"
NUMBERS = st.integers(min_value=0, max_value=10 * ADDRESSES)


class FakeSocket:
    """Takes packets; refuses every `refuse`th."""

    def __init__(self, refuse: int = 0) -> None:
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.tries = 0
        self.refuse = refuse

    def sendto(self, data: bytes, where: tuple[str, int]) -> None:
        self.tries += 1
        if self.refuse and self.tries % self.refuse == 0:
            raise OSError("no buffer space")
        self.sent.append((data, where))

    def close(self) -> None: ...


def whole(packet: bytes) -> bytes:
    """As it leaves: the kernel fills in the length."""
    return packet[:2] + len(packet).to_bytes(2, "big") + packet[4:]


@given(NUMBERS)
def test_each_is_a_syn_from_the_benchmarking_network_to_the_target(number: int) -> None:
    packet = flood.syn(number, TARGET, 7001)
    segment = parse(whole(packet))
    assert segment and (segment.flags, segment.payload, segment.destination_port) == (SYN, 0, 7001)
    assert ipaddress.ip_address(segment.source[12:]) in ipaddress.ip_network(NETWORK)
    assert segment.destination[12:] == socket.inet_aton(TARGET)
    assert segment.source_port >= 1024


@given(NUMBERS)
def test_no_router_passes_it_on(number: int) -> None:
    assert flood.syn(number, TARGET, 7001)[8] == 1


@given(NUMBERS)
def test_its_checksum_is_right(number: int) -> None:
    packet = flood.syn(number, TARGET, 7001)
    segment = packet[20:]
    pseudo = packet[12:20] + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(segment))
    assert flood.checksum(pseudo + segment) == 0


@given(NUMBERS, st.integers(min_value=1, max_value=ADDRESSES - 1))
def test_no_address_comes_twice_before_all_have(number: int, later: int) -> None:
    assert flood.syn(number, TARGET, 7001)[12:16] != flood.syn(number + later, TARGET, 7001)[12:16]


def test_known_checksum() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")  # the example of RFC 1071, section 3
    assert flood.checksum(data) == 0xFFFF - 0xDDF2


def test_a_pace_beyond_a_lesson_is_refused() -> None:
    Pace(burst=MOST_PACKETS // 100, gap_s=0.01, seconds=1)
    with pytest.raises(AssertionError, match="not an attack"):
        Pace(burst=MOST_PACKETS // 100 + 1, gap_s=0.01, seconds=1)


def test_it_ends_by_itself_and_counts_what_it_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSocket(refuse=5)
    monkeypatch.setattr(flood.socket, "socket", lambda *_: fake)
    begin = time.monotonic()
    with Flood(TARGET, 7001, Pace(burst=5, gap_s=0.01, seconds=0.1)) as running:
        running.wait()
        assert time.monotonic() - begin >= 0.1
    assert running.sent == len(fake.sent) == fake.tries - fake.tries // 5
    assert 0 < fake.tries <= 5 * 11
    assert {where for _, where in fake.sent} == {(TARGET, 0)}


def test_it_can_be_stopped_before(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSocket()
    monkeypatch.setattr(flood.socket, "socket", lambda *_: fake)
    begin = time.monotonic()
    with Flood(TARGET, 7001, Pace(burst=5, gap_s=0.01, seconds=15)) as running:
        running.wait(20)
        running.stop()
        sent = len(fake.sent)
    assert 20 <= sent == len(fake.sent) and time.monotonic() - begin < 10


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> FakeSocket:
        raise PermissionError

    monkeypatch.setattr(flood.socket, "socket", refused)
    with pytest.raises(HostError, match="sudo"):
        Flood(TARGET, 7001, Pace(1, 1, 1))
