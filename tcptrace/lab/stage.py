"""The stage of a scenario on this host: two namespaces with a link between them, all gone at the end.

A plain delay is that of a router with netem where the kernel has it, the relay's where not; what loses chosen
packets, delays flows differently or needs a log is always the relay's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from tcptrace.lab import namespaces, router
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import SIDE_A, SIDE_B, Addresses, Namespace
from tcptrace.lab.recording import LIFE_SECONDS
from tcptrace.lab.scenario import Topology

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
            if not topology.delay_ns:
                namespaces.join(a, b)
                yield Stage(a, b, "veth", None)
                return
            with Namespace() as between:
                if router.delayed(a, b, between, topology.delay_ns):
                    yield Stage(a, b, "netem", None)
                    return
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
