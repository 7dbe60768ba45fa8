"""Run a command as root under another kernel: a QEMU guest that sees this machine's files and changes none.

    python vagrant/guest.py KERNEL [--limit S] [--share DIRECTORY] [--set NAME=VALUE]... -- COMMAND...

KERNEL is a name of kernels.toml or the directory of an unpacked kernel. The command runs in the current
directory, its output comes as it is printed, its exit code becomes this one's. Without KVM a guest is about
twenty times slower than the machine. Exit codes of its own: 124 out of time, 125 no guest, 126 the guest's
kernel died.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import matrix_packages
from guest_clock import tsc_khz
from guest_image import Image, Share, initramfs
from matrix_kernels import MatrixError, choose, load

QEMU = "qemu-system-x86_64"
VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
BOOT_SECONDS = 90.0
BOOTS = 3
"""QEMU's emulation now and then panics a kernel while it boots, which says nothing about the command."""
CONSOLE_LINES = 60
# AVX2 as QEMU 7.2 emulates it gives numpy wrong orders (argsort of 12 known numbers), and so wrong tables.
CPU = "max,la57=off,-avx2"
# Without tsc=reliable the kernel distrusts an emulated clock and takes a slow and coarse one.
KERNEL_OPTIONS = (
    "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off no_timer_check tsc=reliable"
)
OUT_OF_TIME, NO_GUEST, PANICKED = 124, 125, 126

# linux/mount.h, linux/fcntl.h, linux/sched.h, linux/prctl.h
CLONE_NEWNS, MS_REC, MS_PRIVATE, AT_FDCWD, AT_RECURSIVE = 0x20000, 0x4000, 1 << 18, -100, 0x8000
MOUNT_ATTR_RDONLY, SYS_MOUNT_SETATTR, PR_SET_PDEATHSIG = 1, 442, 1


class GuestError(MatrixError):
    """A guest ended in a way that says nothing of the command."""

    exit_code = NO_GUEST


class OutOfTime(GuestError):
    """The command was still running at the limit."""

    exit_code = OUT_OF_TIME


class Panicked(GuestError):
    """The guest's kernel died."""

    exit_code = PANICKED


class NotBooted(GuestError):
    """The command never began."""


def run(
    image: Image,
    command: Sequence[str],
    *,
    directory: Path,
    limit: float,
    output: IO[bytes],
    share: Path | None = None,
    environment: Mapping[str, str] | None = None,
    memory: str = "2G",
    processors: int = 2,
    say: Callable[[str], None] = lambda text: None,
) -> int:
    """Boot, run the command, and return its exit code. Nothing is left behind, whatever happens.

    Args:
        limit: seconds for the command; booting has its own limit.
        output: where its output goes as it comes.
        share: a directory that the guest may change.
        environment: added to the guest's own; nothing of this process's is taken over.

    Raises:
        OutOfTime, Panicked: it began and did not end by itself.
        NotBooted: it never began, several times.
    """
    shares = Share("share", share.resolve()) if share else None
    archive = initramfs(image, command, directory, environment or {}, shares)
    for attempt in range(1, BOOTS + 1):
        with contextlib.ExitStack() as stack:
            guest = _Guest(stack, image, archive, shares, memory, processors)
            try:
                return guest.watch(limit, output)
            except NotBooted as error:
                if attempt == BOOTS:
                    raise
                say(f"{error}\nguest: that is QEMU's emulation at times; boot {attempt + 1} of {BOOTS}")
    raise AssertionError


class _Guest:
    """QEMU and its file servers: children that end with the stack, or with this thread."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        image: Image,
        archive: bytes,
        share: Share | None,
        memory: str,
        processors: int,
    ) -> None:
        self._console: collections.deque[str] = collections.deque(maxlen=CONSOLE_LINES)
        initrd = stack.enter_context(os.fdopen(os.memfd_create("initramfs"), "wb"))
        initrd.write(archive)
        initrd.flush()
        given: list[int] = [initrd.fileno()]
        arguments = [
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35"),
            *("-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", str(processors), "-m", memory),
            *(
                "-object",
                f"memory-backend-memfd,id=memory,size={memory},share=on",
                "-numa",
                "node,memdev=memory",
            ),
            *("-kernel", str(image.vmlinuz), "-initrd", f"/proc/self/fd/{initrd.fileno()}", "-append"),
            KERNEL_OPTIONS + (f" tsc_early_khz={khz}" if (khz := tsc_khz()) else ""),
            *("-device", "virtio-serial-pci"),
        ]
        channels = {}
        for number, name in enumerate(("console", "output", "status")):
            ours, theirs = socket.socketpair()
            channels[name] = stack.enter_context(ours)
            given.append(stack.enter_context(theirs).fileno())
            arguments += ["-chardev", f"socket,id={name},fd={theirs.fileno()}"]
            arguments += (
                ["-serial", f"chardev:{name}"]
                if not number
                else ["-device", f"virtserialport,chardev={name},nr={number}"]
            )
        self._channels: dict[str, socket.socket] = channels
        for one in (Share("root", Path("/")), *([share] if share else [])):
            connected = stack.enter_context(_served(stack, one, read_only=one.tag == "root"))
            given.append(connected.fileno())
            arguments += ["-chardev", f"socket,id={one.tag},fd={connected.fileno()}"]
            arguments += ["-device", f"vhost-user-fs-pci,chardev={one.tag},tag={one.tag},queue-size=1024"]
        self._messages = stack.enter_context(os.fdopen(os.memfd_create("messages"), "w+b"))
        self._qemu = _child(stack, [QEMU, *arguments], given, self._messages)

    def watch(self, limit: float, output: IO[bytes]) -> int:
        """Pass output on until the guest says how the command ended."""
        deadline = time.monotonic() + BOOT_SECONDS
        started, status = False, b""
        with selectors.DefaultSelector() as selector:
            for name, channel in self._channels.items():
                selector.register(channel, selectors.EVENT_READ, name)
            while selector.get_map():
                left = deadline - time.monotonic()
                ready = selector.select(max(left, 0))
                if left <= 0:
                    if started:
                        raise OutOfTime(f"guest: still running after {limit:.0f} s, ended")
                    raise NotBooted(self._died(f"did not boot within {BOOT_SECONDS:.0f} s"))
                for key, _ in ready:
                    data = self._channels[key.data].recv(65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.data == "console":
                        self._read_console(data)
                    elif key.data == "output":
                        output.write(data)
                        output.flush()
                    else:
                        status += data
                        if not started and b"started\n" in status:
                            started, deadline = True, time.monotonic() + limit
                if (code := status.partition(b"started\n")[2]).endswith(b"\n"):
                    return int(code)
        if not started:
            raise NotBooted(self._died("did not boot"))
        raise Panicked(self._died("ended by itself while the command ran"))

    def _read_console(self, data: bytes) -> None:
        text = data.decode(errors="replace").replace("\r", "")
        pieces = ((self._console.pop() if self._console else "") + text).split("\n")
        self._console.extend(pieces)

    def _died(self, what: str) -> str:
        """A sentence with the console's last lines, from the kernel's last words on if it had any."""
        self._qemu.kill()
        self._qemu.wait()
        self._messages.seek(0)
        said = self._messages.read().decode(errors="replace").split("\n")
        lines = [line for line in (*self._console, *said) if line.strip()]
        first = next((n for n, line in enumerate(lines) if "BUG:" in line or "panic" in line), -8)
        shown = "".join(f"\n  {line}" for line in lines[first:])
        return f"guest: {what}; its console and QEMU said:{shown or ' nothing'}"


@contextlib.contextmanager
def _served(stack: contextlib.ExitStack, share: Share, read_only: bool) -> Iterator[socket.socket]:
    """A connection to a server of the host's files (vhost-user), for QEMU."""
    if not VIRTIOFSD.exists():
        raise MatrixError(f"no {VIRTIOFSD}, which shares files with guests: apt install qemu-system-common")
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}/socket")
        listener.listen(1)
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(f"{place}/socket")
        command = [str(VIRTIOFSD), f"--fd={listener.fileno()}", "-o", f"source={share.path}"]
        # Nothing but a guest changes what it sees, so it may remember everything.
        command += ["-o", "sandbox=chroot", "-o", "cache=" + ("always" if read_only else "auto")]
        messages = stack.enter_context(os.fdopen(os.memfd_create("messages"), "w+b"))
        _child(stack, command, [listener.fileno()], messages, _read_only if read_only else None)
    with connected:
        yield connected


def _child(
    stack: contextlib.ExitStack,
    command: list[str],
    descriptors: Sequence[int],
    messages: IO[bytes],
    prepare: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """A process that is killed when the stack ends, and by the kernel should this thread end before."""

    def begin() -> None:
        end_with_parent(signal.SIGKILL)
        if prepare:
            prepare()

    if not shutil.which(command[0]):
        raise MatrixError(f"no {command[0]}, which runs guests: apt install qemu-system-x86")
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages,
        pass_fds=descriptors, preexec_fn=begin, start_new_session=True,
    )  # fmt: skip

    def end() -> None:
        child.kill()
        child.wait()

    stack.callback(end)
    return child


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Let the kernel send this process a signal as soon as the thread that started it is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def _read_only() -> None:
    """Make every mount read-only for this process, so that no guest can change the host."""
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    if (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        or libc.syscall(
            SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes)
        )
    ):
        raise OSError(ctypes.get_errno(), "cannot make the shared files read-only")


def find(kernel: str, say: Callable[[str], None]) -> Image:
    """The image of a name of kernels.toml, fetched if need be, or of a directory.

    Raises:
        MatrixError: there is none.
    """
    if "/" in kernel:
        return Image(Path(kernel))
    return Image(matrix_packages.fetch(choose(load(), [kernel])[0], say))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Run a command as root under another kernel, in a guest that changes no file here."
    )
    parser.add_argument(
        "kernel", metavar="KERNEL", help="a name of kernels.toml, or an unpacked kernel's directory"
    )
    parser.add_argument("--limit", type=float, default=600, metavar="S", help="seconds for the command (600)")
    parser.add_argument(
        "--share", type=Path, metavar="DIRECTORY", help="a directory that the guest may change"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="its environment")
    parser.add_argument("--memory", default="2G", help="what the guest has (2G)")
    parser.add_argument("--with-parent", action="store_true", help="end when what started this ends")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    given = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def terminate(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminate)
    if given.with_parent:
        end_with_parent()
    try:
        if os.geteuid():
            raise MatrixError("guests are started as root, who alone can share all files: use sudo")
        return run(
            find(given.kernel, say), given.command,
            directory=Path.cwd(), limit=given.limit, share=given.share,
            output=sys.stdout.buffer, memory=given.memory, say=say,
            environment=dict(one.partition("=")[::2] for one in given.set),
        )  # fmt: skip
    except GuestError as error:
        say(str(error))
        return error.exit_code
    except MatrixError as error:
        say(f"guest: {error}")
        return NO_GUEST
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
