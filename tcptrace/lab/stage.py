"""The stage of a scenario on this host: two namespaces with a link between them, all gone at the end.

A plain delay is netem's where the kernel has it, the relay's where not; what loses chosen packets, delays
flows differently or needs a log is always the relay's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from tcptrace.errors import HostError, TcptraceError
from tcptrace.lab import namespaces
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import SIDE_A, SIDE_B, Addresses, Namespace
from tcptrace.lab.recording import LIFE_SECONDS
from tcptrace.lab.scenario import Topology

DEVICE = "veth0"
RELAY_PRIORITY = 10


@dataclass(frozen=True)
class Stage:
    """Where the parts play: the client in `a`, the server in `b`. `link` is the relay, or None; `means`
    says in a word what delays: "veth", "netem" or "relay"."""

    a: Namespace
    b: Namespace
    means: str
    link: Link | None
    client: Addresses = SIDE_A
    server: Addresses = SIDE_B


@contextlib.contextmanager
def stage(topology: Topology) -> Iterator[Stage]:
    """Set the stage, and take everything down again whatever happens.

    Raises:
        HostError: not root, no iproute2, or no /dev/net/tun for the relay.
        TcptraceError: the kernel refuses something else.
    """
    with namespaces.pair(wired=False) as (a, b):
        if not (topology.scripted or topology.logged):
            namespaces.join(a, b, device=DEVICE)
            if not topology.delay_ns:
                yield Stage(a, b, "veth", None)
                return
            if all(_netem(space, topology.delay_ns) for space in (a, b)):
                yield Stage(a, b, "netem", None)
                return
            for space in (a, b):
                with contextlib.suppress(TcptraceError):  # the first removal takes the other end along
                    namespaces.ip("-n", space.name, "link", "delete", DEVICE)
        link = Link(
            a,
            b,
            delay_ns=topology.delay_ns,
            flow_delays_ns=topology.flow_delays_ns,
            drops=topology.drops,
            lates=topology.lates,
            life_s=LIFE_SECONDS,
        )
        with link:
            # A network does not wait for a CPU of the hosts that it connects.
            link.prefer(RELAY_PRIORITY)
            yield Stage(a, b, "relay", link)


def _netem(space: Namespace, delay_ns: int) -> bool:
    """Delay what leaves the namespace. False where the kernel has no netem.

    Raises HostError when `tc` is missing.
    """
    program = shutil.which("tc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise HostError("the lab needs the command 'tc': apt install iproute2")
    delay = f"{delay_ns // 1000}us"
    try:
        space.check(
            [program, "qdisc", "add", "dev", DEVICE, "root", "netem", "delay", delay, "limit", "10000"]
        )
    except TcptraceError:  # HostError would say that `tc` is missing, and it is there
        return False
    return True
