"""What was measured between the machines: the network's share of joined exchanges, and what it should be.

    measured.py NETEM PING CLIENT.tct SERVER.tct

NETEM is what `tc qdisc show` said on the router, PING what ping said on the client; both know the way that a
packet takes without tcptrace. Prints a table, one line per server port.
"""

from __future__ import annotations

import re
import statistics
import sys
from pathlib import Path
from typing import Any

from tcptrace.analysis.join import join
from tcptrace.errors import TcptraceError
from tcptrace.output.tables import Column, text_lines
from tcptrace.trace.reader import read
from tcptrace.units import format_duration

NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def netem_ns(text: str) -> int:
    """What all netem qdiscs of the router add to a packet's way there and back, ns.

    There is one per network: whoever goes there and back passes both. 0 without netem.
    """
    delays = re.findall(r"\bnetem\b.*?\bdelay ([0-9.]+)(s|ms|us|ns)\b", text)
    return round(sum(float(number) * NS[unit] for number, unit in delays))


def ping_ns(text: str) -> int | None:
    """The median round trip of the replies, ns; None without one."""
    times = [float(time) for time in re.findall(r"\btime=([0-9.]+) ms", text)]
    return round(statistics.median(times) * NS["ms"]) if times else None


def by_port(client: Path, server: Path) -> dict[int, list[dict[str, Any]]]:
    """The client's exchanges of both recordings joined, by server port. Raises TcptraceError."""
    joined = join([read(client), read(server)])
    ports = {row["connection_id"]: row["remote_port"] for row in joined.connections.to_pylist()}
    found: dict[int, list[dict[str, Any]]] = {}
    for row in joined.exchanges.to_pylist():
        if row["side"] == "client":
            found.setdefault(ports[row["connection_id"]], []).append(row)
    return found


def median(rows: list[dict[str, Any]], name: str) -> int | None:
    """Of the rows in which it is known, ns."""
    values = [row[name] for row in rows if row[name] is not None]
    return round(statistics.median(values)) if values else None


def words(duration_ns: int | None) -> str:
    return "–" if duration_ns is None else format_duration(duration_ns)


def lines(exchanges: dict[int, list[dict[str, Any]]], added_ns: int) -> list[str]:
    """The table: medians; `network` of the exchanges that both ends recorded."""
    cells = []
    for port, rows in sorted(exchanges.items()):
        exact = [row for row in rows if row["network_exact"]]
        network = median(exact, "network_ns")
        off = "–" if network is None or not added_ns else f"{100 * (network - added_ns) / added_ns:+.1f} %"
        totals = (words(median(rows, name)) for name in ("total_ns", "nagle_ns"))
        cells.append((str(port), str(len(rows)), str(len(exact)), *totals, words(network), off))
    titles = ("port", "exchanges", "at both ends", "total", "nagle", "network", "to netem")
    columns = [Column(title, [row[at] for row in cells], right=True) for at, title in enumerate(titles)]
    return list(text_lines(columns))


def main() -> None:
    netem, ping, client, server = map(Path, sys.argv[1:])
    added_ns = netem_ns(netem.read_text())
    try:
        exchanges = by_port(client, server)
    except TcptraceError as error:
        sys.exit(f"measured.py: {error}")
    print(f"There and back, the router's netem holds a packet for {words(added_ns)}.")
    print(f"ping, without load: {words(ping_ns(ping.read_text()))}.")
    print("\n".join(lines(exchanges, added_ns)) if exchanges else "No exchange was recorded.")


if __name__ == "__main__":
    main()
