"""TCP_INFO of real sockets, on loopback."""

from __future__ import annotations

import socket

import pytest

from tcptrace.lab.tcpinfo import CLOSE_WAIT, ESTABLISHED, tcp_info


def test_both_ends_of_a_connection_agree() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        here, there = tcp_info(client), tcp_info(server)
        assert here.state == there.state == ESTABLISHED
        assert (here.sack, here.timestamps, here.ecn) == (there.sack, there.timestamps, there.ecn)
        assert (here.snd_wscale, here.rcv_wscale) == (there.rcv_wscale, there.snd_wscale)
        assert here.retransmits == there.retransmits == 0 and not here.tfo
        assert 0 < here.srtt_us < 1_000_000
        server.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        assert tcp_info(client).state == CLOSE_WAIT


def test_it_can_be_noted() -> None:
    with socket.socket() as one:
        noted = tcp_info(one)._asdict()
    assert noted["state"] == 7 and set(map(type, noted.values())) == {int, bool}


def test_a_socket_without_is_an_error() -> None:
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError):
        tcp_info(one)
