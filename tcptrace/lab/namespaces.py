"""Network namespaces of our own: made, wired, entered from threads, and removed whatever happens.

A namespace is named ``tcptrace-lab-PID-BIRTH-SERIAL`` in ``/run/netns``. Its maker's process id and
birth (clock ticks since boot) are in the name so that :func:`sweep` can tell what a killed process
left behind from what a living one is using.

Python 3.11 has no ``os.setns``. Only the calling thread changes its namespace, and a thread that has
changed is never handed other work: each entry uses a thread of its own that ends afterwards. What is
made inside keeps its namespace, so a socket or a child process can be handed back and used anywhere.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import ipaddress
import itertools
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from tcptrace.errors import HostError, TcptraceError

PREFIX = "tcptrace-lab-"
DIRECTORY = Path("/run/netns")
CLONE_NEWNET = 0x40000000
STOP_SECONDS = 5.0
ROUTE_SECONDS = 20.0

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
_serials = itertools.count(1)
_alive: dict[str, Namespace] = {}
_replaced_handlers: dict[int, Any] = {}


@dataclass(frozen=True)
class Addresses:
    """The addresses of one end of a link, and the prefix lengths they share with the other end."""

    ipv4: str
    ipv6: str
    ipv4_prefix: int = 24
    ipv6_prefix: int = 64


SIDE_A = Addresses("10.88.0.1", "fd88::1")
SIDE_B = Addresses("10.88.0.2", "fd88::2")


def ip(*arguments: str) -> None:
    """Run iproute2's ``ip``.

    Raises:
        HostError: ``ip`` is not installed, or this process may not do it.
        TcptraceError: ``ip`` refused; the message carries its first line.
    """
    program = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise HostError("the lab needs the command 'ip': apt install iproute2")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
    if "Operation not permitted" in reason or "Permission denied" in reason:
        raise HostError(f"the lab needs root: ip {' '.join(arguments)}: {reason}")
    raise TcptraceError(f"ip {' '.join(arguments)}: {reason}")


def _birth_of(pid: int) -> str | None:
    """Start of a process in clock ticks since boot, or None when there is none (proc_pid_stat(5), 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


class Namespace:
    """One network namespace with its loopback up. Use it as a context manager.

    Raises:
        HostError: not root, or no iproute2.
        TcptraceError: the kernel refused for another reason.
    """

    def __init__(self) -> None:
        pid = os.getpid()
        self.name = f"{PREFIX}{pid}-{_birth_of(pid)}-{next(_serials)}"
        self.path = DIRECTORY / self.name
        self._owner = pid
        self._children: list[subprocess.Popen[Any]] = []
        self._starting = threading.Lock()
        _watch_for_our_end()
        # Registered before it exists: an interruption inside `ip` must not leave it behind.
        _alive[self.name] = self
        try:
            ip("netns", "add", self.name)
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise
        self.inode = os.fstat(self._fd).st_ino
        ip("-n", self.name, "link", "set", "lo", "up")

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes started by :meth:`popen`, then remove the namespace's name.

        The kernel frees the namespace itself when the last socket in it is closed. A process forked
        from the maker removes nothing. Calling it twice is harmless.
        """
        if os.getpid() != self._owner or _alive.pop(self.name, None) is None:
            return
        with self._starting:
            children = list(self._children)
        for child in children:
            stop(child)
        if hasattr(self, "_fd"):
            os.close(self._fd)
            del self._fd
        if self.path.exists():
            _remove(self.name)
        if not _alive:
            _restore_handlers()

    def run(self, function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        """Call a function in a thread of its own inside this namespace; its result or exception is ours."""
        results: list[T] = []
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                enter(self._fd)
                results.append(function(*arguments, **keywords))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=inside, name=self.name, daemon=True)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def socket(
        self,
        family: int = socket.AF_INET,
        kind: int = socket.SOCK_STREAM,
        protocol: int = 0,
    ) -> socket.socket:
        """A socket of this namespace. It stays one, whichever thread uses it."""
        return self.run(socket.socket, family, kind, protocol)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process inside. It is terminated when the namespace is closed.

        The child's parent thread ends at once, so the child must not ask for PR_SET_PDEATHSIG.
        """

        def start() -> subprocess.Popen[Any]:
            # An interrupted caller is gone while this thread goes on: the child must be known by then.
            with self._starting:
                if self.name not in _alive:
                    raise TcptraceError(f"namespace {self.name} is closed")
                child = subprocess.Popen(list(command), **options)
                self._children.append(child)
                return child

        return self.run(start)

    def check(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end and return its output as text.

        Raises:
            TcptraceError: the command is missing or failed; the message carries its first error line.
        """
        try:
            done = self.run(
                subprocess.run, list(command), capture_output=True, text=True, check=False, **options
            )
        except FileNotFoundError as error:
            raise HostError(f"the lab needs the command '{command[0]}'") from error
        if done.returncode:
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
            raise TcptraceError(f"{' '.join(command)}: {reason}")
        return done

    def sysctl(self, name: str, value: object | None = None) -> str:
        """Read a sysctl of this namespace (``net.ipv4.tcp_syn_retries``), after writing it if given a value.

        Raises:
            HostError: this kernel has no such sysctl in a namespace, or refuses the value.
        """
        path = Path("/proc/sys", *name.split("."))

        def inside() -> str:
            if value is not None:
                path.write_text(f"{value}\n")
            return path.read_text().strip()

        try:
            return self.run(inside)
        except OSError as error:
            raise HostError(f"sysctl {name}: {error.strerror}") from error


def enter(descriptor: int) -> None:
    """Move the calling thread, and only it, into the namespace behind a descriptor.

    Raises:
        HostError: the kernel refuses (CAP_SYS_ADMIN is needed).
    """
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise HostError(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")


def stop(child: subprocess.Popen[Any], seconds: float = STOP_SECONDS) -> int:
    """End a child by SIGTERM, by SIGKILL when it does not listen. Returns its exit code."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def address(space: Namespace, device: str, addresses: Addresses) -> None:
    """Give a device its addresses and bring it up; usable at once (no duplicate address detection)."""
    # The device's own link-local address would go through detection and delay the link by a second.
    ip("-n", space.name, "link", "set", device, "addrgenmode", "none")
    ip("-n", space.name, "link", "set", device, "up")
    ip("-n", space.name, "addr", "add", f"{addresses.ipv4}/{addresses.ipv4_prefix}", "dev", device)
    ip("-n", space.name, "addr", "add", f"{addresses.ipv6}/{addresses.ipv6_prefix}", "dev", device, "nodad")
    # The route to itself follows in a work queue, addrconf_dad_completed(): before that, a SYN is dropped.
    route = f"{ipaddress.ip_address(addresses.ipv6).packed.hex()} 80"
    deadline = time.monotonic() + ROUTE_SECONDS
    while not space.run(_has_ipv6_route, route):
        if time.monotonic() > deadline:
            raise TcptraceError(f"{addresses.ipv6} is not usable {ROUTE_SECONDS:g} s after `ip addr add`")
        time.sleep(0.001)


def _has_ipv6_route(destination: str) -> bool:
    """Whether this thread's namespace has a route to a destination as proc prints it, prefix in hex."""
    routes = Path("/proc/thread-self/net/ipv6_route").read_text()
    return any(line.startswith(destination) for line in routes.splitlines())


def join(
    a: Namespace,
    b: Namespace,
    *,
    device: str = "veth0",
    side_a: Addresses = SIDE_A,
    side_b: Addresses = SIDE_B,
    mtu: int = 1500,
) -> None:
    """Connect two namespaces by a veth pair with the same device name, IPv4 and IPv6, at both ends."""
    ip("link", "add", device, "mtu", str(mtu), "netns", a.name, "type", "veth", "peer", "name", device,
       "mtu", str(mtu), "netns", b.name)  # fmt: skip
    address(a, device, side_a)
    address(b, device, side_b)


@contextlib.contextmanager
def pair(*, wired: bool = True) -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces, joined by a veth unless ``wired`` is false; both are removed at the end."""
    with Namespace() as a, Namespace() as b:
        if wired:
            join(a, b)
        yield a, b


def sweep() -> list[str]:
    """Remove namespaces whose makers are dead. Returns their names."""
    removed = []
    for path in DIRECTORY.glob(f"{PREFIX}*") if DIRECTORY.is_dir() else ():
        pid, _, rest = path.name.removeprefix(PREFIX).partition("-")
        birth = rest.partition("-")[0]
        if pid.isdigit() and _birth_of(int(pid)) != birth:
            with contextlib.suppress(TcptraceError):  # another sweep may have been faster
                ip("netns", "delete", path.name)
                removed.append(path.name)
    return removed


def _remove(name: str) -> None:
    """Remove a namespace's name; what cannot be removed is left to the next :func:`sweep`."""
    with contextlib.suppress(TcptraceError):
        ip("netns", "delete", name)


def _close_all() -> None:
    for space in list(_alive.values()):
        space.close()


def _leave(number: int, frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP end a process without running its `finally` blocks; an exception runs them."""
    raise SystemExit(128 + number)


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Fatal signals that nobody handles become exceptions in this block, so that what was started is ended.
    Every :class:`Namespace` has this by itself."""
    if _replaced_handlers:
        yield
        return
    _replace_handlers()
    try:
        yield
    finally:
        _restore_handlers()


def _watch_for_our_end() -> None:
    """Before the first namespace: sweep, and see to it that the last one is removed by our end."""
    if _alive:
        return
    sweep()
    _replace_handlers()


def _replace_handlers() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            _replaced_handlers[number] = signal.signal(number, _leave)


def _restore_handlers() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in _replaced_handlers.items():
        if signal.getsignal(number) is _leave:
            signal.signal(number, handler)
    _replaced_handlers.clear()


atexit.register(_close_all)
