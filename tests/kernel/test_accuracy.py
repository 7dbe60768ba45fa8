"""Recorded handshake times against a packet capture, as `make accuracy` measures them."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable

import pytest

from conftest import require, why_no_recording
from drive import SERVER, listen, receive, wait_closed, wait_state
from experiment import RELAY, VARYING, VETH, Experiment, measure
from recording import Between, Recording, only
from tcptrace.lab.link import Link
from tcptrace.lab.namespaces import SIDE_B


@pytest.mark.parametrize("experiment", [VETH, RELAY, VARYING], ids=lambda experiment: experiment.name)
def test_handshakes_are_as_long_as_in_a_capture(experiment: Experiment) -> None:
    require(shutil.which("tcpdump", path="/usr/bin:/usr/sbin:/sbin") is not None, "no tcpdump")
    require(not why_no_recording(), why_no_recording())
    said: list[str] = []
    outcome = measure(experiment, say=said.append)
    assert not outcome.failures, "\n".join(said)
    for side in outcome.sides.values():
        assert len(side.differences) + side.missing == 500


def test_a_fast_open_lasts_from_synack_to_ack(
    linked: Callable[..., Link], record: Callable[..., Recording]
) -> None:
    """Its child socket is older than its SYN-ACK, so the child's birth cannot be the end of the handshake."""
    link = linked(delay_ns=10_000_000)
    for space in (link.a, link.b):
        space.sysctl("net.ipv4.tcp_fastopen", 3)
    recording = record("--netns", link.a.inode, "--netns", link.b.inode)
    with listen(link.b) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
        for _ in range(2):  # the first asks for the cookie that lets the second send data in its SYN
            with link.a.socket() as client:
                client.sendto(b"early", socket.MSG_FASTOPEN, (SIDE_B.ipv4, SERVER))
                with listener.accept()[0] as server:
                    assert receive(server, 5) == b"early"
                    wait_state(server, "established")
    wait_closed(link.b, SERVER)
    rows = recording.stop()
    fast = only(rows, role="passive", tfo=True)
    assert fast["handshake_ns"] == Between(20_000_000, 30_000_000)
    assert only(rows, role="passive", tfo=False)["handshake_ns"] == Between(20_000_000, 30_000_000)
