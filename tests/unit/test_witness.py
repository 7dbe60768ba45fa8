"""The capture's reader: handshakes in a file that is still being written, for both kinds of device."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import experiment
from experiment import RELAY, VARYING, Side, compare, failures
from tcptrace.errors import TcptraceError
from tcptrace.lab.packet import ACK, RST, SYN
from witness import ETHERNET, NANOSECOND_MAGIC, RAW_IP, Handshake, handshakes, packets

CLIENT, SERVER = (b"\x0a\x00\x00\x01", 40000), (b"\x0a\x00\x00\x02", 80)


def packet(source: tuple[bytes, int], destination: tuple[bytes, int], flags: int) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", source[1], destination[1], 1, 1, 5 << 4, flags, 100, 0, 0)
    return struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + source[0] + destination[0] + tcp


def capture(*stamped: tuple[int, bytes], link: int = RAW_IP, magic: int = NANOSECOND_MAGIC) -> bytes:
    data = struct.pack("=IHHiIII", magic, 2, 4, 0, 0, 128, link)
    for at, body in stamped:
        frame = body if link == RAW_IP else b"\0" * 12 + b"\x08\x00" + body
        data += struct.pack("=IIII", at // 10**9, at % 10**9, len(frame), len(frame)) + frame
    return data


OPENING = (
    (1_000_000_000_000_000_001, packet(CLIENT, SERVER, SYN)),
    (1_000_000_000_000_000_020, packet(SERVER, CLIENT, SYN | ACK)),
    (1_000_000_000_000_000_300, packet(CLIENT, SERVER, ACK)),
)


@pytest.mark.parametrize("link", [RAW_IP, ETHERNET])
def test_stamps_of_a_handshake_to_the_nanosecond(link: int) -> None:
    later = (1_000_000_000_000_004_000, packet(CLIENT, SERVER, ACK))
    found = handshakes(packets(capture(*OPENING, later, link=link)))
    assert found == {40000: Handshake(*(at for at, _ in OPENING))}


def test_a_file_cut_anywhere_gives_the_packets_before_the_cut() -> None:
    data = capture(*OPENING)
    size = (len(data) - 24) // 3
    for length in range(len(data) + 1):
        assert len(list(packets(data[:length]))) == max(0, length - 24) // size


def test_a_repeated_packet_spoils_its_handshake() -> None:
    for place in (0, 1):
        again = (OPENING[place][0] + 5, OPENING[place][1])
        assert handshakes(packets(capture(*OPENING, again)))[40000].repeated


def test_a_reset_is_no_third_ack() -> None:
    reset = (OPENING[2][0], packet(CLIENT, SERVER, ACK | RST))
    assert handshakes(packets(capture(*OPENING[:2], reset)))[40000].ack_ns == -1


def test_a_capture_without_nanoseconds_is_refused() -> None:
    with pytest.raises(TcptraceError):
        list(packets(capture(magic=0xA1B2C3D4)))


def test_rows_and_packets_are_joined_by_the_clients_port() -> None:
    shakes = {1: Handshake(100, 200, 1100), 2: Handshake(100, 200, 2100), 3: Handshake(100, 200, 300, True)}
    rows = [
        {"role": "active", "local_port": 1, "remote_port": 80, "handshake_ns": 900},
        {"role": "passive", "local_port": 80, "remote_port": 1, "handshake_ns": 905},
        {"role": "active", "local_port": 2, "remote_port": 80, "handshake_ns": None},
        {"role": "active", "local_port": 3, "remote_port": 80, "handshake_ns": 1},
    ]
    active = compare(rows, "active", shakes)
    assert (active.differences.tolist(), active.missing) == ([-100], 2)
    passive = compare(rows, "passive", shakes)
    assert (passive.differences.tolist(), passive.missing) == ([5], 2)


def test_bounds_are_bounds_on_the_size_of_the_difference() -> None:
    captured = np.arange(1_000, 101_000, 1_000)
    good = Side(captured - 4_900, captured, 0)
    assert not failures(RELAY, {"active": good})
    assert len(failures(RELAY, {"active": Side(captured - 5_100, captured, 0)})) == 1
    outliers = np.where(np.arange(100) < 3, -51_000, 0)
    assert len(failures(RELAY, {"active": Side(captured + outliers, captured, 0)})) == 1
    assert not failures(VARYING, {"active": good})
    assert len(failures(VARYING, {"active": Side(captured[::-1], captured, 0)})) == 1
    assert len(failures(RELAY, {"active": Side(captured, captured, 3)})) == 1


@pytest.mark.parametrize(("bad_runs", "attempts", "kept"), [(0, 1, True), (2, 3, True), (9, 3, False)])
def test_a_run_beyond_its_bounds_is_repeated_twice_at_most_and_said(
    monkeypatch: pytest.MonkeyPatch, bad_runs: int, attempts: int, kept: bool
) -> None:
    captured = np.arange(1_000, 101_000, 1_000)
    runs = iter([Side(captured + 9_000, captured, 0)] * bad_runs + [Side(captured, captured, 0)])
    monkeypatch.setattr(experiment, "run", lambda *_: {"active": next(runs)})
    said: list[str] = []
    outcome = experiment.measure(RELAY, 100, said.append)
    assert (outcome.attempts, not outcome.failures) == (attempts, kept)
    assert len(said) == min(bad_runs, 3)
