"""What the kernel itself says of TCP in the network namespace of this process, without tcptrace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

FILES = ("/proc/self/net/netstat", "/proc/self/net/snmp")
TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
ESTABLISHED, SYN_RECV, TIME_WAIT, LISTEN = "01", "03", "06", "0A"  # include/net/tcp_states.h


def read() -> dict[str, int]:
    """Every counter of /proc/net/netstat and snmp by name, as `nstat` has them: TcpExtListenOverflows."""
    found: dict[str, int] = {}
    for file in FILES:
        lines = Path(file).read_text().splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            group, _, rest = names.partition(":")
            numbers = values.partition(":")[2].split()
            found |= {group + name: int(number) for name, number in zip(rest.split(), numbers, strict=True)}
    return found


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """The counters that changed, and by how much."""
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


def sockets(ports: Iterable[int]) -> list[tuple[int, int, str]]:
    """(local port, remote port, state) of the sockets with one of these ports at either end, IPv4 first.
    States are as /proc/net/tcp prints them: "01" established, "03" a request that is half open, "06"
    TIME_WAIT, "0A" LISTEN."""
    wanted = set(ports)
    found = []
    for table in TABLES:
        with contextlib.suppress(FileNotFoundError):  # no IPv6 in this kernel
            for line in Path(table).read_text().splitlines()[1:]:
                local, remote, state = line.split()[1:4]
                ends = [int(end.rpartition(":")[2], 16) for end in (local, remote)]
                if wanted.intersection(ends):
                    found.append((ends[0], ends[1], state))
    return found


def states(ports: Iterable[int]) -> list[str]:
    """The states alone."""
    return [state for _, _, state in sockets(ports)]


def living(ports: Iterable[int]) -> bool:
    """Whether any connection of these ports is neither over nor in TIME_WAIT."""
    return any(state not in (TIME_WAIT, LISTEN) for state in states(ports))
