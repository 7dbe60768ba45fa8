"""One turn by each way of moving data: small functions of a connected client and server.

Every read is made when all that it is to return has come, so that the number of reads is known. Unless its
text says otherwise, a function moves one REQUEST and one ANSWER, with one write and one read each.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from asking import nodelay, read_exactly
from drive import poll
from uring import Ring

REQUEST, ANSWER = bytes(100), bytes(300)
BANNER = bytes(50)
LARGE, HUGE = bytes(20_000), bytes(1_000_000)
MANY = 100
SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x400_0000
TCP_ZEROCOPY_RECEIVE = 35

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


def come(one: socket.socket, count: int) -> None:
    """Wait until so many bytes can be read."""

    def are_there() -> bool:
        (there,) = struct.unpack("i", fcntl.ioctl(one, termios.FIONREAD, bytes(4)))
        return bool(there >= count)

    poll(are_there, f"{count} bytes to read")


def hear(one: socket.socket, data: bytes) -> None:
    """Read all of it in one call."""
    come(one, len(data))
    assert len(one.recv(len(data))) == len(data)


def send_and_recv(client: socket.socket, server: socket.socket) -> None:
    client.send(REQUEST)
    hear(server, REQUEST)
    server.send(ANSWER)
    hear(client, ANSWER)


def sendmsg_and_recvmsg(client: socket.socket, server: socket.socket) -> None:
    client.sendmsg([REQUEST[:30], REQUEST[30:]])
    come(server, len(REQUEST))
    assert len(server.recvmsg(len(REQUEST))[0]) == len(REQUEST)
    server.sendmsg([ANSWER])
    come(client, len(ANSWER))
    assert client.recvmsg_into([bytearray(100), bytearray(200)])[0] == len(ANSWER)


def write_and_read(client: socket.socket, server: socket.socket) -> None:
    os.write(client.fileno(), REQUEST)
    come(server, len(REQUEST))
    assert len(os.read(server.fileno(), 4096)) == len(REQUEST)
    os.write(server.fileno(), ANSWER)
    come(client, len(ANSWER))
    assert len(os.read(client.fileno(), 4096)) == len(ANSWER)


def writev_and_readv(client: socket.socket, server: socket.socket) -> None:
    os.writev(client.fileno(), [REQUEST[:50], REQUEST[50:]])
    come(server, len(REQUEST))
    assert os.readv(server.fileno(), [bytearray(40), bytearray(4096)]) == len(REQUEST)
    os.writev(server.fileno(), [ANSWER[:1], ANSWER[1:]])
    come(client, len(ANSWER))
    assert os.readv(client.fileno(), [bytearray(4096)]) == len(ANSWER)


def sendfile(client: socket.socket, server: socket.socket) -> None:
    """LARGE comes back."""
    client.send(REQUEST)
    hear(server, REQUEST)
    with tempfile.TemporaryFile() as file:
        file.write(LARGE)
        file.flush()
        assert os.sendfile(server.fileno(), file.fileno(), 0, len(LARGE)) == len(LARGE)
    hear(client, LARGE)


def splice(client: socket.socket, server: socket.socket) -> None:
    """From a pipe to the socket and from the socket to a pipe, at both ends."""
    with pipe() as (out, into):
        for one, other, data in ((client, server, REQUEST), (server, client, ANSWER)):
            os.write(into, data)
            assert os.splice(out, one.fileno(), len(data)) == len(data)
            come(other, len(data))
            assert os.splice(other.fileno(), into, 4096) == len(data)
            assert len(os.read(out, 4096)) == len(data)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """The end to read from and the one to write to."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def zerocopy_send(client: socket.socket, server: socket.socket) -> None:
    """LARGE goes and comes back; the notices that each end takes from its error queue are no reads."""
    for one, other in ((client, server), (server, client)):
        one.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        assert one.send(LARGE, MSG_ZEROCOPY) == len(LARGE)
        hear(other, LARGE)
        poller = select.poll()
        poller.register(one, select.POLLERR)
        assert poller.poll(5000), "no notice of completion"
        assert one.recvmsg(0, 1000, socket.MSG_ERRQUEUE)[1]


def zerocopy_receive(client: socket.socket, server: socket.socket) -> None:
    """Both read by TCP_ZEROCOPY_RECEIVE, which copies what fills no page (tcp_zerocopy_receive)."""
    for one, other, data in ((client, server, REQUEST), (server, client, ANSWER)):
        one.send(data)
        come(other, len(data))
        address = _libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, other.fileno(), 0)
        assert address not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
        copied = ctypes.create_string_buffer(4096)
        # address, length, recv_skip_hint, inq, err, copybuf_address, copybuf_len, flags
        values = struct.pack("QIIIiQiI", address, 4096, 0, 0, 0, ctypes.addressof(copied), 4096, 0)
        option, size = ctypes.create_string_buffer(values, len(values)), ctypes.c_int(len(values))
        failed = _libc.getsockopt(
            other.fileno(), socket.IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, option, ctypes.byref(size)
        )
        _libc.munmap(ctypes.c_void_p(address), 4096)
        assert not failed, os.strerror(ctypes.get_errno())
        assert struct.unpack_from("i", option, 32)[0] == len(data)


def more_to_come(client: socket.socket, server: socket.socket) -> None:
    """A request of two writes, one segment."""
    client.send(REQUEST[:50], socket.MSG_MORE)
    client.send(REQUEST[50:])
    hear(server, REQUEST)
    server.send(ANSWER)
    hear(client, ANSWER)


def cork(client: socket.socket, server: socket.socket) -> None:
    """An answer of two writes, one segment."""
    client.send(REQUEST)
    hear(server, REQUEST)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    server.send(ANSWER[:100])
    server.send(ANSWER[100:])
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    hear(client, ANSWER)


def epoll(client: socket.socket, server: socket.socket) -> None:
    """Neither end blocks: each tries to read too early and once more at the end, which is no read."""
    for one, other, data in ((client, server, REQUEST), (server, client, ANSWER)):
        one.setblocking(False)
        other.setblocking(False)
        with select.epoll() as poller:
            poller.register(other, select.EPOLLIN | select.EPOLLET)
            refused(other)
            one.send(data)
            assert poller.poll(5)
            hear(other, data)
            refused(other)


def refused(one: socket.socket) -> None:
    """There is nothing to read."""
    with contextlib.suppress(BlockingIOError):
        raise AssertionError(f"{len(one.recv(1))} bytes to read")


def several_writes(client: socket.socket, server: socket.socket) -> None:
    """A request of three writes and segments, an answer of two."""
    for one, other, data, size in ((client, server, REQUEST, 40), (server, client, ANSWER, 150)):
        nodelay(one)
        for begin in range(0, len(data), size):
            one.send(data[begin : begin + size])
        hear(other, data)


def several_reads(client: socket.socket, server: socket.socket) -> None:
    """Two reads of the request and three of the answer."""
    for one, other, data, size in ((client, server, REQUEST, 50), (server, client, ANSWER, 100)):
        one.send(data)
        come(other, len(data))
        for _ in range(0, len(data), size):
            assert len(other.recv(size)) == size


def peek(client: socket.socket, server: socket.socket) -> None:
    """Each end looks twice before it reads."""
    for one, other, data in ((client, server, REQUEST), (server, client, ANSWER)):
        one.send(data)
        come(other, len(data))
        assert len(other.recv(10, socket.MSG_PEEK)) == 10
        assert len(other.recv(4096, socket.MSG_PEEK)) == len(data)
        hear(other, data)


def wait_for_all(client: socket.socket, server: socket.socket) -> None:
    """One read lasts from before the answer's first write until after its second."""
    client.send(REQUEST)
    hear(server, REQUEST)

    def answer() -> None:
        nodelay(server)
        server.send(ANSWER[:100])
        time.sleep(0.005)
        server.send(ANSWER[100:])

    with behind(answer):
        assert len(client.recv(len(ANSWER), socket.MSG_WAITALL)) == len(ANSWER)


@contextlib.contextmanager
def behind(work: Callable[[], object]) -> Iterator[None]:
    """Something goes on in another thread during the block; its error becomes the block's."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result()


def large_answer(client: socket.socket, server: socket.socket) -> None:
    """HUGE comes back by one write, in as many reads as it takes."""
    client.send(REQUEST)
    hear(server, REQUEST)
    with behind(lambda: server.sendall(HUGE)):
        read_exactly(client, len(HUGE))


def discard(client: socket.socket, server: socket.socket) -> None:
    """Both read with MSG_TRUNC, which copies nothing."""
    for one, other, data in ((client, server, REQUEST), (server, client, ANSWER)):
        one.send(data)
        come(other, len(data))
        assert len(other.recv(4096, socket.MSG_TRUNC)) == len(data)


def io_uring(client: socket.socket, server: socket.socket) -> None:
    with Ring() as ring:
        for one, other, data in ((client, server, REQUEST), (server, client, ANSWER)):
            assert ring.send(one.fileno(), data) == len(data)
            come(other, len(data))
            assert len(ring.recv(other.fileno(), 4096)) == len(data)


def half_closed(client: socket.socket, server: socket.socket) -> None:
    """The answer comes after the client's FIN; no end of data is a read."""
    client.send(REQUEST)
    client.shutdown(socket.SHUT_WR)
    hear(server, REQUEST)
    assert server.recv(1) == b""
    server.send(ANSWER)
    hear(client, ANSWER)


def server_first(client: socket.socket, server: socket.socket) -> None:
    """BANNER, then two turns."""
    server.send(BANNER)
    hear(client, BANNER)
    for _ in range(2):
        send_and_recv(client, server)


def stream(client: socket.socket, server: socket.socket) -> None:
    """HUGE goes one way; nothing comes back."""
    with behind(lambda: client.sendall(HUGE)):
        read_exactly(server, len(HUGE))


def unanswered(client: socket.socket, server: socket.socket) -> None:
    """A single message."""
    client.send(REQUEST)
    hear(server, REQUEST)


def burst(client: socket.socket, server: socket.socket) -> None:
    """Three requests are there before the first is answered."""
    nodelay(client)
    nodelay(server)
    for _ in range(3):
        client.send(REQUEST)
    come(server, 3 * len(REQUEST))
    for _ in range(3):
        assert len(server.recv(len(REQUEST))) == len(REQUEST)
        server.send(ANSWER)
    come(client, 3 * len(ANSWER))
    for _ in range(3):
        assert len(client.recv(len(ANSWER))) == len(ANSWER)


def turns_and_burst(client: socket.socket, server: socket.socket) -> None:
    send_and_recv(client, server)
    burst(client, server)


def impatient(client: socket.socket, server: socket.socket) -> None:
    """The client asks again before it has read the rest of the answer."""
    for _ in range(2):
        client.send(REQUEST)
        hear(server, REQUEST)
        server.send(ANSWER)
        come(client, len(ANSWER))
        assert len(client.recv(100)) == 100
    assert len(client.recv(4096)) == 2 * len(ANSWER) - 200


def pipelined(client: socket.socket, server: socket.socket) -> None:
    """Over a path of 20 ms: MANY requests at 1 ms, each answered at once."""
    nodelay(client)
    nodelay(server)

    def answer() -> None:
        for _ in range(MANY):
            hear(server, REQUEST)
            server.send(ANSWER)

    def listen() -> None:
        for _ in range(MANY):
            hear(client, ANSWER)

    with behind(answer), behind(listen):
        for _ in range(MANY):
            client.send(REQUEST)
            time.sleep(0.001)


def both_ways(client: socket.socket, server: socket.socket) -> None:
    """Over a path of 20 ms: each end sends MANY times a REQUEST, at 1 ms, whatever the other one does."""
    nodelay(client)
    nodelay(server)

    def listen(one: socket.socket) -> None:
        for _ in range(MANY):
            hear(one, REQUEST)

    with behind(lambda: listen(client)), behind(lambda: listen(server)):
        for _ in range(MANY):
            client.send(REQUEST)
            server.send(REQUEST)
            time.sleep(0.001)
