"""Reading TCP headers out of made-up packets, whole and broken."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from tcptrace.lab.packet import ACK, SYN, Segment, parse

PORTS = st.integers(0, 0xFFFF)
NUMBERS = st.integers(0, 0xFFFFFFFF)
IPV6_EXTENSIONS = st.lists(
    st.tuples(st.sampled_from([0, 43, 60]), st.integers(0, 3)), max_size=3
)  # kind, length in units of 8 bytes beyond the first 8


@dataclass(frozen=True)
class Made:
    """A packet and what is in it."""

    raw: bytes
    segment: Segment


def tcp(segment: Segment, options: int) -> bytes:
    return (
        struct.pack(
            "!HHIIBBHHH",
            segment.source_port,
            segment.destination_port,
            segment.sequence,
            segment.acknowledgement,
            (5 + options) << 4,
            segment.flags,
            512,
            0,
            0,
        )
        + b"\1" * 4 * options
        + b"x" * segment.payload
    )


@st.composite
def ipv4(draw: st.DrawFn) -> Made:
    addresses = [b"\0" * 10 + b"\xff\xff" + draw(st.binary(min_size=4, max_size=4)) for _ in range(2)]
    segment = Segment(
        4, addresses[0], addresses[1], draw(PORTS), draw(PORTS), draw(NUMBERS), draw(NUMBERS),
        draw(st.integers(0, 255)), draw(st.integers(0, 40)),
    )  # fmt: skip
    words = draw(st.integers(0, 10))
    body = b"\1" * 4 * words + tcp(segment, draw(st.integers(0, 10)))
    header = struct.pack("!BBHHHBBH", 0x45 + words, 0, 20 + len(body), 7, 0x4000, 64, 6, 0)
    trailer = draw(st.binary(max_size=8))  # bytes after the packet's own length are not payload
    return Made(header + addresses[0][12:] + addresses[1][12:] + body + trailer, segment)


@st.composite
def ipv6(draw: st.DrawFn) -> Made:
    addresses = [draw(st.binary(min_size=16, max_size=16)) for _ in range(2)]
    segment = Segment(
        6, addresses[0], addresses[1], draw(PORTS), draw(PORTS), draw(NUMBERS), draw(NUMBERS),
        draw(st.integers(0, 255)), draw(st.integers(0, 40)),
    )  # fmt: skip
    body = tcp(segment, draw(st.integers(0, 10)))
    following = 6
    for kind, length in draw(IPV6_EXTENSIONS):
        body = bytes([following, length]) + b"\0" * (6 + 8 * length) + body
        following = kind
    header = struct.pack("!IHBB", 6 << 28, len(body), following, 64)
    return Made(header + addresses[0] + addresses[1] + body, segment)


@given(ipv4() | ipv6())
def test_whole_packets_are_read_exactly(made: Made) -> None:
    assert parse(made.raw) == made.segment


@given(ipv4() | ipv6(), st.data())
def test_cut_packets_give_none(made: Made, data: st.DataObject) -> None:
    ip_length = (
        int.from_bytes(made.raw[2:4], "big")
        if made.raw[0] >> 4 == 4
        else 40 + int.from_bytes(made.raw[4:6], "big")
    )
    assert parse(made.raw[: data.draw(st.integers(0, ip_length - 1))]) is None


@given(ipv4() | ipv6(), st.data())
def test_damage_never_raises_and_never_invents_bytes(made: Made, data: st.DataObject) -> None:
    raw = bytearray(made.raw)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    segment = parse(bytes(raw))
    assert segment is None or 0 <= segment.payload <= len(raw) - 40


@given(st.binary(max_size=120))
def test_noise_never_raises(raw: bytes) -> None:
    parse(raw)


def test_fragments_and_other_protocols_give_none() -> None:
    addresses = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
    body = tcp(Segment(4, b"", b"", 1, 2, 3, 4, SYN | ACK, 0), 0)

    def packet(fragment: int, protocol: int) -> bytes:
        return (
            struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, fragment, 64, protocol, 0) + addresses + body
        )

    assert parse(packet(0x4000, 6)) is not None
    assert parse(packet(0x2000, 6)) is None, "the first of several fragments"
    assert parse(packet(0x0008, 6)) is None, "a later fragment"
    assert parse(packet(0x4000, 17)) is None, "UDP"
