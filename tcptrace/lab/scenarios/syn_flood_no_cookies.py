"""Spoofed SYNs fill the SYN queue, and nothing is left for clients."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.lab import flooding
from tcptrace.lab.checks import Check, each, same
from tcptrace.lab.flood import Pace
from tcptrace.lab.flooding import PORT, Visitor, clients_rows, flooded, group, visit
from tcptrace.lab.part import Part, punctual
from tcptrace.lab.rows import Rows, column
from tcptrace.lab.scenario import Scenario, Truth

COUNT = 3
PATIENCE_S = 0.4
# A half-open request lives for a second here. Those of the first second are followed by others at once; the
# flood ends between the SYN that a patient client repeats after a second and the next one.
PACE = Pace(burst=16, gap_s=0.02, seconds=1.7)


def client(part: Part) -> None:
    punctual()
    visit(part, "before", COUNT)
    with flooded(part, PACE) as flood:
        for name, patience_s in (("impatient", PATIENCE_S), ("patient", None)):
            visitors = [Visitor(part, name, patience_s) for _ in range(COUNT)]
            if patience_s:
                for visitor in visitors:
                    visitor.join(part.limit_s)
        flood.wait()
    for visitor in visitors:
        visitor.join(part.limit_s)
    visit(part, "after", COUNT)


def checks(truth: Truth, rows: Rows) -> Iterator[Check]:
    yield from flooding.prompt(truth, rows, "before", "after")
    patient, impatient = group(truth, "patient"), group(truth, "impatient")
    for name, column_name, visitors in (
        ("patient", "handshake_ns", patient),
        ("impatient", "syn_sent_ns", impatient),
    ):
        yield each(
            f"{name}: {column_name}",
            [visitor["connect_ns"] for visitor in visitors],
            column(clients_rows(visitors, rows), column_name),
            relative=0.02,
            absolute_ns=500_000,
        )
    yield same(
        "connections that were never made",
        sum("connected" not in visitor for visitor in truth["visitors"]),
        sum(
            row["close_reason"] == "aborted" and row["handshake_ns"] is None
            for row in rows.ends("active", PORT)
        ),
    )
    yield from flooding.opened(truth, rows)
    yield from flooding.nothing_invented(truth, rows)


SCENARIO = Scenario(
    name="syn-flood-no-cookies",
    chapter="queues",
    title="A SYN flood without cookies: a full SYN queue and clients that wait",
    teaches="Each spoofed SYN leaves a half-open request. When the SYN queue is full of them, the kernel "
    "drops SYNs without a word, those of clients as well: connect() takes a second and more "
    "(syn_retransmits, handshake_ns near whole seconds), or the client gives up (close_reason aborted, only "
    "syn_sent_ns). The server's end has rows of completed connections alone; `ss -tan state syn-recv` shows "
    "the requests, `nstat` the dropped SYNs (TcpExtTCPReqQFullDrop). Cures: SYN cookies (tcp_syncookies 1), "
    "a filter in front; a longer queue only takes longer to fill.",
    sysctls={
        "server": {
            "net.ipv4.tcp_syncookies": 0,
            "net.ipv4.tcp_synack_retries": 0,
            "net.ipv4.tcp_max_syn_backlog": 1024,
        }
    },
    server=flooding.server,
    client=client,
    truth=flooding.truth,
    checks=checks,
    private=True,
)
