"""The router between two namespaces: both families pass, and its delay is the network's, not an end's."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from conftest import require
from lacking import MAY_LACK
from tcptrace.lab import router
from tcptrace.lab.namespaces import SIDE_B, Namespace, pair

MS = 1_000_000


@pytest.fixture
def three() -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    """Two ends, not wired, and a namespace for a router."""
    with pair(wired=False) as (a, b), Namespace() as between:
        yield a, b, between


def connect_ns(a: Namespace, b: Namespace, family: socket.AddressFamily, address: str) -> int:
    """How long a connect() from a to b takes."""
    with b.socket(family) as listener, a.socket(family) as client:
        listener.bind((address, 7001))
        listener.listen()
        client.settimeout(5)
        begin = time.monotonic_ns()
        client.connect((address, 7001))
        return time.monotonic_ns() - begin


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, SIDE_B.ipv4), (socket.AF_INET6, SIDE_B.ipv6)]
)
def test_router_forwards_both_families_at_once(
    three: tuple[Namespace, Namespace, Namespace], family: socket.AddressFamily, address: str
) -> None:
    a, b, between = three
    router.join(a, between, b)
    assert connect_ns(a, b, family, address) < 1000 * MS  # no SYN was lost


@pytest.mark.matrix
def test_router_delays_each_way(three: tuple[Namespace, Namespace, Namespace]) -> None:
    a, b, between = three
    if not router.delayed(a, b, between, 20 * MS):
        # Nothing was left behind: the ends can still be joined otherwise.
        router.join(a, between, b)
        assert connect_ns(a, b, socket.AF_INET, SIDE_B.ipv4) < 20 * MS
        if MAY_LACK in os.environ:  # a guest; no host has to have it
            require(False, "this kernel has no netem", "netem")
        return
    assert connect_ns(a, b, socket.AF_INET, SIDE_B.ipv4) >= 40 * MS
