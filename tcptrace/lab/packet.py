"""Read the TCP header out of an IP packet, as far as the bytes at hand allow.

Input is whatever a TUN device hands over, so every offset and length is checked against the bytes
that are there and against what the IP header claims. Nothing is raised: what is no whole TCP header
gives None.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

TCP = 6
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
_MAPPED = b"\0" * 10 + b"\xff\xff"
_TCP_HEADER = struct.Struct("!HHIIBB")


class Segment(NamedTuple):
    """One TCP segment. Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d."""

    family: int
    """4 or 6."""
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    sequence: int
    acknowledgement: int
    flags: int
    payload: int
    """Bytes of payload, by the lengths in the headers."""


def parse(packet: bytes) -> Segment | None:
    """The segment in an IP packet; None for anything but an unfragmented, whole TCP header."""
    if not packet:
        return None
    version = packet[0] >> 4
    if version == 4:
        return _ipv4(packet)
    if version == 6:
        return _ipv6(packet)
    return None


def _ipv4(packet: bytes) -> Segment | None:
    if len(packet) < 20:
        return None
    header = (packet[0] & 15) * 4
    total = int.from_bytes(packet[2:4], "big")
    fragmented = int.from_bytes(packet[6:8], "big") & 0x3FFF  # more fragments, or an offset
    if header < 20 or not header <= total <= len(packet) or fragmented or packet[9] != TCP:
        return None
    return _tcp(packet, 4, _MAPPED + packet[12:16], _MAPPED + packet[16:20], header, total)


def _ipv6(packet: bytes) -> Segment | None:
    if len(packet) < 40:
        return None
    end = 40 + int.from_bytes(packet[4:6], "big")
    if end > len(packet):
        return None
    following, at = packet[6], 40
    while following in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION):
        if at + 8 > end:
            return None
        if following == FRAGMENT:
            if int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF9:
                return None
            following, at = packet[at], at + 8
        else:
            following, at = packet[at], at + (packet[at + 1] + 1) * 8
    if following != TCP:
        return None
    return _tcp(packet, 6, packet[8:24], packet[24:40], at, end)


def _tcp(packet: bytes, family: int, source: bytes, destination: bytes, at: int, end: int) -> Segment | None:
    if at + 20 > end:
        return None
    source_port, destination_port, sequence, acked, offset, flags = _TCP_HEADER.unpack_from(packet, at)
    header = (offset >> 4) * 4
    if header < 20 or at + header > end:
        return None
    return Segment(
        family,
        source,
        destination,
        source_port,
        destination_port,
        sequence,
        acked,
        flags,
        end - at - header,
    )
