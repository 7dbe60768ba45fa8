"""What the kernel says of a socket by TCP_INFO, without tcptrace."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

SIZE = 104
"""struct tcp_info up to tcpi_total_retrans (include/uapi/linux/tcp.h): its beginning never changes."""
TOTAL_RETRANSMITS, SMOOTHED_RTT = 100, 68
BUSY_TIME, SIZE_WITH_LIMITS = 168, 192
"""tcpi_busy_time, tcpi_rwnd_limited, tcpi_sndbuf_limited follow each other (from 4.10 on)."""
TIMESTAMPS, SACK, ECN, FAST_OPEN = 1, 2, 8, 32
ESTABLISHED, CLOSE, CLOSE_WAIT = 1, 7, 8


class TcpInfo(NamedTuple):
    """One socket, now. `_asdict()` of it can be noted."""

    state: int
    """As in include/net/tcp_states.h: 1 is ESTABLISHED."""
    timestamps: bool
    sack: bool
    ecn: bool
    tfo: bool
    """The SYN carried data that was taken."""
    snd_wscale: int
    rcv_wscale: int
    retransmits: int
    """Segments sent again since the connection began, SYNs among them."""
    srtt_us: int


def tcp_info(one: socket.socket) -> TcpInfo:
    """Ask for a TCP socket's. Raises OSError when it is closed or no TCP socket."""
    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SIZE)
    options, scales = info[5], info[6]
    return TcpInfo(
        info[0],
        bool(options & TIMESTAMPS),
        bool(options & SACK),
        bool(options & ECN),
        bool(options & FAST_OPEN),
        scales & 15,
        scales >> 4,
        struct.unpack_from("I", info, TOTAL_RETRANSMITS)[0],
        struct.unpack_from("I", info, SMOOTHED_RTT)[0],
    )


class Limits(NamedTuple):
    """How long a sender had unacknowledged data, and for how long of it the receive window or its own buffer
    kept it from sending more, in ns. The kernel counts in jiffies (tcp_get_info_chrono_stats())."""

    busy_ns: int
    rwnd_ns: int
    sndbuf_ns: int


def limits(one: socket.socket) -> Limits:
    """Ask for those of a TCP socket, so far. Raises OSError when it is closed or no TCP socket."""
    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SIZE_WITH_LIMITS)
    return Limits(*(value * 1000 for value in struct.unpack_from("QQQ", info, BUSY_TIME)))
