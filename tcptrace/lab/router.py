"""A router between two namespaces, and netem on it where the kernel has that.

The delay must not be at the ends: netem is a queueing discipline, so at an end its delay would be the sending
kernel's (kernel_tx_ns), before the packet is handed to the device. Nor on a bridge, which hands on the
sender's own packet: only a router takes it from its socket.
"""

from __future__ import annotations

import os
import shutil

from tcptrace.errors import HostError, TcptraceError
from tcptrace.lab.namespaces import SIDE_A, SIDE_B, Addresses, Namespace, address, ip

DEVICE = "veth0"
TOWARDS_A, TOWARDS_B = "towards-a", "towards-b"
PACKETS = 10_000
"""What netem keeps back at most, at each end."""


def join(
    a: Namespace,
    router: Namespace,
    b: Namespace,
    *,
    side_a: Addresses = SIDE_A,
    side_b: Addresses = SIDE_B,
) -> None:
    """Connect two namespaces through a third that forwards IPv4 and IPv6.

    Neighbours are entered by hand: no first packet waits for ARP.
    """
    ends = ((1, a, TOWARDS_A, side_a, side_b), (2, b, TOWARDS_B, side_b, side_a))
    for number, space, device, mine, other in ends:
        here, there = f"02:00:00:00:00:{number:02x}", f"02:00:00:00:01:{number:02x}"
        ip("link", "add", DEVICE, "address", here, "netns", space.name, "type", "veth",
           "peer", "name", device, "address", there, "netns", router.name)  # fmt: skip
        ip("-n", router.name, "link", "set", device, "addrgenmode", "none")
        ip("-n", router.name, "link", "set", device, "up")
        address(space, DEVICE, mine)
        for family, my_address, bits, other_address in (
            ("-4", mine.ipv4, 32, other.ipv4),
            ("-6", mine.ipv6, 128, other.ipv6),
        ):
            ip(family, "-n", router.name, "route", "add", f"{my_address}/{bits}", "dev", device)
            for where, neighbour, hardware, on in (
                (router, my_address, here, device),
                (space, other_address, there, DEVICE),
            ):
                ip(family, "-n", where.name, "neigh", "replace", neighbour, "lladdr", hardware,
                   "dev", on, "nud", "permanent")  # fmt: skip
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        router.sysctl(name, 1)


def delayed(a: Namespace, b: Namespace, router: Namespace, delay_ns: int) -> bool:
    """Connect two namespaces through a third that delays, each way by as much.

    Returns False, and leaves no device, where the kernel has no netem. Raises HostError when `tc` is missing.
    """
    program = shutil.which("tc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise HostError("the lab needs the command 'tc': apt install iproute2")
    netem = ["netem", "delay", f"{delay_ns // 1000}us", "limit", str(PACKETS)]
    try:
        # Tried where it hinders nobody: a loopback device has no use for a delay.
        router.check([program, "qdisc", "add", "dev", "lo", "root", *netem])
    except HostError:
        raise
    except TcptraceError:
        return False
    join(a, router, b)
    for device in (TOWARDS_A, TOWARDS_B):
        router.check([program, "qdisc", "add", "dev", device, "root", *netem])
    return True
