"""Spoofed SYNs fill the SYN queue; with cookies clients do not notice, but for their options."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.lab import flooding
from tcptrace.lab.checks import Check, same
from tcptrace.lab.flood import Pace
from tcptrace.lab.flooding import PORT, flooded, visit
from tcptrace.lab.part import Part, punctual
from tcptrace.lab.rows import Rows
from tcptrace.lab.scenario import Scenario, Truth

COUNT = 4
GROUPS = ("before", "during", "after")
PACKETS = 2000
PACE = Pace(burst=32, gap_s=0.02, seconds=2.5)


def client(part: Part) -> None:
    punctual()
    visit(part, "before", COUNT)
    with flooded(part, PACE) as flood:
        visit(part, "during", COUNT)
        # Half-open requests of a second ago have their SYN-ACK repeated meanwhile.
        flood.wait(PACKETS)
        visit(part, "during", COUNT)
    visit(part, "after", COUNT)


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    yield from flooding.prompt(truth, rows, *GROUPS)
    yield from flooding.opened(truth, rows)
    yield same(
        "handshakes by cookie, of which the server knows no time",
        truth["cookies_received"],
        sum(row["handshake_ns"] is None for row in rows.ends("passive", PORT)),
    )
    yield from flooding.nothing_invented(truth, rows)


SCENARIO = Scenario(
    name="syn-flood-cookies",
    chapter="queues",
    title="A SYN flood with cookies: clients connect, with fewer options",
    teaches="With a full SYN queue and tcp_syncookies 1 the kernel keeps nothing of a SYN: what it must "
    "remember is in its SYN-ACK's sequence number and comes back with the ACK. Clients connect at once, "
    "flood or not. The price: a cookie has room for an MSS only. Without timestamps, as here, there is no "
    "SACK and no window scale (at most 64 KiB in flight), and the server's handshake_ns is null. `nstat` "
    "counts SyncookiesSent and SyncookiesRecv: many sent and few received is a flood, about as many a "
    "backlog that is too short.",
    sysctls={
        "server": {
            "net.ipv4.tcp_syncookies": 1,
            "net.ipv4.tcp_synack_retries": 1,
            "net.ipv4.tcp_max_syn_backlog": 1024,
        },
        "client": {"net.ipv4.tcp_timestamps": 0},
    },
    server=flooding.server,
    client=client,
    truth=flooding.truth,
    checks=checks,
    private=True,
    settle_s=0.5,  # half-open requests of the flood live for longer, and need not end
)
