"""tcptrace record."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import click

from tcptrace.cli import CONTEXT
from tcptrace.cli.common import provider_option
from tcptrace.errors import EXIT_INCOMPLETE, EXIT_OK, TcptraceError, UsageError
from tcptrace.output.escape import visible
from tcptrace.output.files import invoking_user
from tcptrace.units import parse_duration, parse_size

_REFRESH_S = 0.5
_POLL_S = 0.05
_PATIENCE_S = 5.0  # with a command that was told to end
_EXIT_NOT_FOUND, _EXIT_NOT_RUN = 127, 126  # what shells, env and nice answer
_PAGE = os.sysconf("SC_PAGE_SIZE")


class _CommandMissing(TcptraceError):
    exit_code = _EXIT_NOT_FOUND


class _CommandRefused(TcptraceError):
    exit_code = _EXIT_NOT_RUN


class _Integer(click.IntRange):
    name = "integer"  # of which messages say that something is none


def _duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    return parse_duration(value) / 1e9


def _buffer(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    size = parse_size(value)
    if size < _PAGE or size & (size - 1) or size > 1 << 30:
        raise UsageError(f"--buffer {value!r} is no power of two from {_PAGE} bytes (one page) to 1G")
    return size


def default_path() -> Path:
    host = os.uname().nodename.replace("/", "_")
    return Path(f"tcptrace-{host}-{time.strftime('%Y%m%d-%H%M%S')}.tct")


@click.command(
    "record",
    context_settings={**CONTEXT, "allow_interspersed_args": False},
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Trace file [tcptrace-HOST-TIME.tct].")
@click.option(
    "-d", "--duration", callback=_duration, metavar="TIME", help="Stop after TIME, such as 30s or 5m."
)
@click.option(
    "--port", "ports", type=_Integer(1, 65535), multiple=True, metavar="N", help="Local or remote port."
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="CIDR",
    help="Remote address or network; ::/0 takes IPv4 as well.",
)
@click.option(
    "--pid", "pids", type=_Integer(1, (1 << 31) - 1), multiple=True, metavar="N", help="Owning process."
)
@click.option(
    "--comm", "comms", multiple=True, metavar="NAME", help="Its name, of which the kernel keeps 15 bytes."
)
@click.option(
    "--netns", "namespaces", multiple=True, metavar="NS", help="Network namespace: inode, name or path."
)
@click.option(
    "--mode",
    type=click.Choice(["lifecycle", "budget"]),
    default="budget",
    show_default=True,
    help="budget times each exchange as well.",
)
@click.option(
    "--buffer",
    callback=_buffer,
    default="16M",
    show_default=True,
    metavar="SIZE",
    help="Size of each ring buffer.",
)
@provider_option
@click.option("--force", is_flag=True, help="Overwrite the trace file.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def command(
    output: Path | None,
    duration: float | None,
    ports: tuple[int, ...],
    peers: tuple[str, ...],
    pids: tuple[int, ...],
    comms: tuple[str, ...],
    namespaces: tuple[str, ...],
    mode: str,
    buffer: int,
    providers: Mapping[str, str],
    force: bool,
    command: tuple[str, ...],
) -> int:
    """Record the TCP connections of this host: every network namespace, IPv4 and IPv6.

    Each connection that ends leaves one row per end on this host; those open before and after are found
    too and marked. Records until the duration is over, COMMAND has ended, or Ctrl-C or SIGTERM comes; the
    file is complete in each case. The line on stderr that starts with "recording" tells that everything is
    attached and every open connection is known.

    Filters are applied in the kernel. One option given several times takes any of its values; different
    options must all hold. A connection whose owner was never seen has no --pid and no --comm.

    \b
    Examples:
      tcptrace record                            until Ctrl-C
      tcptrace record -d 30s -o web.tct --port 443
      tcptrace record --peer 10.0.0.0/8 --comm nginx
      tcptrace record --netns blue -- curl -s http://10.0.0.2/
      tcptrace record --provider "write entered=fentry/tcp_sendmsg_locked"

    \b
    Exit status: 0 recorded; 1 failure; 2 usage; 3 this host cannot record (see tcptrace doctor);
    5 recorded, but the kernel or a full buffer lost some of it; with COMMAND, its own when not 0,
    127 when there is no such command, 126 when it cannot be run.
    """
    from tcptrace.acquire.filters import Filters
    from tcptrace.acquire.interrupt import interrupts
    from tcptrace.acquire.preflight import require_privileges
    from tcptrace.acquire.recorder import Options, Recorder

    require_privileges()
    path = output or default_path()
    if path.exists() and not force:
        raise TcptraceError(f"{path} exists: give another name with -o, or --force to overwrite it")
    if command and shutil.which(command[0]) is None:
        raise _CommandMissing(f"cannot run {command[0]!r}: no such command")
    filters = Filters(ports, peers, pids, comms, namespaces)
    options = Options(path, filters, mode, buffer, duration, force, invoking_user(), providers)
    view, child = _View(), None
    with interrupts() as interrupt:
        recorder = Recorder(options)
        try:
            recorder.start()
            _say(f"recording to {path}{'' if duration or command else ': Ctrl-C ends it'}")
            try:
                child = _start_child(command)
            except _CommandRefused:
                recorder.stop()
                raise

            def over() -> bool:
                interrupt.drain()
                return interrupt.stopped is not None or (child is not None and child.poll() is not None)

            recorder.run(over, interrupt.wake_fd, view.show)
            view.clear()
            status = _end_child(child, interrupt.stopped, recorder.poll)
            losses = recorder.stop()
            _say(recorder.summary_line(losses))
        except BaseException:
            view.clear()
            _end_child(child, None, lambda: None)
            raise
        finally:
            recorder.close()
    return status or (EXIT_INCOMPLETE if losses else EXIT_OK)


def _say(text: str) -> None:
    # a terminal that was closed, or a reader that left, must not cost the recording its end
    with suppress(OSError):
        click.echo(visible(text), err=True)


def _start_child(command: tuple[str, ...]) -> "subprocess.Popen[bytes] | None":
    if not command:
        return None
    try:
        return subprocess.Popen(command)
    except OSError as error:
        raise _CommandRefused(f"cannot run {command[0]!r}: {error.strerror}") from None


def _end_child(
    child: "subprocess.Popen[bytes] | None", stopped: signal.Signals | None, poll: Callable[[], None]
) -> int:
    """Hands a stopping signal on to the command, waits for it, and returns its status as a shell would.

    Calls `poll` while it waits.
    A command that dies by our signal, or by the one that stopped us, ended as it was told to: 0.
    """
    if child is None:
        return EXIT_OK
    ours = {stopped}
    if child.poll() is None:
        ours |= {stopped or signal.SIGTERM, signal.SIGKILL}
        child.send_signal(stopped or signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_S
        while child.poll() is None and time.monotonic() < deadline:
            poll()
            with suppress(subprocess.TimeoutExpired):
                child.wait(_POLL_S)
        child.kill()  # nothing, if it has ended
    status = child.wait()
    if status < 0 and signal.Signals(-status) in ours:
        return EXIT_OK
    return status if status >= 0 else 128 - status


class _View:
    """Live counts on stderr, where that is a terminal."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = 0.0
        self._last: tuple[float, int] = (0.0, 0)

    def show(self, progress: "object") -> None:
        from tcptrace.acquire.recorder import Progress

        if not self._live or not isinstance(progress, Progress):
            return
        now = progress.elapsed_s
        if now - self._shown < _REFRESH_S:
            return
        total = progress.connections + progress.events + progress.exchanges
        rate = (total - self._last[1]) / max(now - self._last[0], 1e-9)
        self._shown, self._last = now, (now, total)
        lost = f"{progress.lost:,} lost" if progress.lost else "nothing lost"
        text = f"{now:7.1f} s  {progress.connections:,} connections  {rate:,.0f} events/s  {lost}"
        self._write(f"\r\x1b[2K{text}")

    def clear(self) -> None:
        self._write("\r\x1b[2K")

    def _write(self, text: str) -> None:
        if not self._live:
            return
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            self._live = False  # the terminal was closed
