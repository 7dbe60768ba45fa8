"""Real servers and the load tools that measure them: nginx under h2load, PostgreSQL under pgbench.

Each server runs in a namespace of its own, so that no port can be taken, from a configuration and with data
in a temporary directory, as a user without privileges. Services of the host are not touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tcptrace.errors import HostError, TcptraceError
from tcptrace.lab import namespaces
from tcptrace.lab.namespaces import Namespace

HTTP_PORT, SQL_PORT = 7780, 7732
START_SECONDS = 15.0
RUN_SECONDS = 60.0
SMALL_BYTES, LARGE_BYTES = 1_000, 200_000

# keepalive_requests: a connection is not to end before its work does.
NGINX = """\
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {directory}/temp;
    proxy_temp_path {directory}/temp;
    fastcgi_temp_path {directory}/temp;
    uwsgi_temp_path {directory}/temp;
    scgi_temp_path {directory}/temp;
    server {{
        listen {address}:{port};
        root {directory};
    }}
}}
"""

# Its own speed is nobody's business here; noise of the disk would be.
POSTGRES = ("fsync=off", "synchronous_commit=off", "autovacuum=off", "unix_socket_directories=")


@dataclass(frozen=True)
class Told:
    """What a load tool says of its run: how many requests or transactions, and their mean latency."""

    count: int
    mean_ns: float


def missing() -> str:
    """The programs that are not installed here, as a reason, or nothing."""
    found = {"nginx": _nginx(), "h2load": shutil.which("h2load"), "PostgreSQL": _postgres()}
    absent = [name for name, program in found.items() if program is None]
    return f"{', '.join(absent)} not installed" if absent else ""


def _nginx() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _postgres() -> Path | None:
    """The directory of the newest version's programs: Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    return found[-1].parent if found else None


@contextlib.contextmanager
def nginx(space: Namespace, address: str) -> Iterator[str]:
    """nginx with one worker and two files, `/small` and `/large`; yields where they are."""
    program = _nginx()
    if program is None:
        raise HostError("the comparison needs nginx: apt install nginx-light")
    with _directory("nobody") as directory:
        for name, size in (("small", SMALL_BYTES), ("large", LARGE_BYTES)):
            (directory / name).write_bytes(b"x" * size)
        configuration = directory / "nginx.conf"
        configuration.write_text(NGINX.format(directory=directory, address=address, port=HTTP_PORT))
        command = [program, "-p", str(directory), "-e", "stderr", "-c", str(configuration)]
        with _server(space, command, "nobody", directory, lambda: _listens(space, HTTP_PORT)):
            yield f"http://{address}:{HTTP_PORT}"


def h2load(space: Namespace, url: str, requests: int, connections: int) -> Told:
    """Requests over HTTP/1.1 with keep-alive, the next one when the last is answered.

    Its mean is that of every request, from its submission to the end of its answer: 2 us more than from its
    write to its last read, when each connection has a thread of its own; otherwise it would contain the time
    for which answers of other connections keep the thread busy. wrk's mean would not do: it contains requests
    that wrk thinks it would have sent.
    """
    command = ["h2load", "--h1", "-n", str(requests), "-c", str(connections), "-t", str(connections), url]
    said = space.check(command, timeout=RUN_SECONDS).stdout
    done = re.search(r"(\d+) succeeded, 0 failed", said)
    # min, max, mean, standard deviation
    times = re.search(r"^time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)\s", said, re.MULTILINE)
    if not done or not times or int(done[1]) != requests:
        raise TcptraceError(f"h2load went wrong: {said.strip().splitlines()[-1:]}")
    return Told(requests, float(times[1]) * {"us": 1e3, "ms": 1e6, "s": 1e9}[times[2]])


@dataclass(frozen=True)
class Postgres:
    """A running server with the tables of pgbench in it."""

    space: Namespace
    programs: Path

    def pgbench(self, transactions: int, *options: str) -> Told:
        """Transactions over one TCP connection, one after the other, each statement a message of its own.

        The mean is that of the transactions only because progress is asked for (-P); otherwise pgbench
        divides its running time.
        """
        said = self._run("pgbench", "-n", "-c", "1", "-M", "simple", "-P", "3600", "-t", str(transactions),
                         *options).stdout  # fmt: skip
        done = re.search(r"transactions actually processed: (\d+)/", said)
        mean = re.search(r"latency average = ([\d.]+) ms", said)
        if not done or not mean or int(done[1]) != transactions:
            raise TcptraceError(f"pgbench went wrong: {said.strip().splitlines()[-1:]}")
        return Told(transactions, float(mean[1]) * 1e6)

    def fill(self) -> None:
        self._run("pgbench", "-i", "-q", "-s", "1", "--no-vacuum")

    def _run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A client program. No encryption is negotiated: a connection's first turn is its start-up."""
        where = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(SQL_PORT),
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
        }
        environment = {**os.environ, **where, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
        command = [str(self.programs / name), *arguments]
        return self.space.check(command, env=environment, timeout=RUN_SECONDS)


@contextlib.contextmanager
def postgres(space: Namespace) -> Iterator[Postgres]:
    """A PostgreSQL cluster of its own, filled by pgbench at scale 1."""
    programs = _postgres()
    if programs is None:
        raise HostError("the comparison needs PostgreSQL: apt install postgresql")
    with _directory("postgres") as directory:
        data = str(directory / "data")
        made = [str(programs / "initdb"), "-D", data, "-U", "postgres", "--auth=trust", "--no-sync",
                "--locale=C"]  # fmt: skip
        space.check(made, user="postgres", group="postgres", extra_groups=[], cwd=directory)
        settings = [f"port={SQL_PORT}", "listen_addresses=127.0.0.1", *POSTGRES]
        command = [str(programs / "postgres"), "-D", data]
        command += [word for setting in settings for word in ("-c", setting)]
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(SQL_PORT)]

        def is_ready() -> bool:
            return space.run(subprocess.run, ready, check=False).returncode == 0

        with _server(space, command, "postgres", directory, is_ready):
            server = Postgres(space, programs)
            server.fill()
            yield server


@contextlib.contextmanager
def _directory(user: str) -> Iterator[Path]:
    """A temporary directory that belongs to a user."""
    with tempfile.TemporaryDirectory(prefix="tcptrace-service-") as name:
        shutil.chown(name, user)
        yield Path(name)


@contextlib.contextmanager
def _server(
    space: Namespace, command: list[str], user: str, directory: Path, ready: Callable[[], bool]
) -> Iterator[None]:
    """Run a server during the block, as a user, once it is ready.

    Raises:
        TcptraceError: it ended, or did not become ready; the message carries its last line.
    """
    log = directory / "stderr"
    with log.open("wb") as output:
        child = space.popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            user=user,
            group={"nobody": "nogroup"}.get(user, user),
            extra_groups=[],
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
                raise TcptraceError(f"{command[0]} does not start: {said[-1]}")
            time.sleep(0.02)
        yield
    finally:
        # PostgreSQL waits for its clients at SIGTERM, but all of them are gone by then.
        namespaces.stop(child)


def _listens(space: Namespace, port: int) -> bool:
    """Whether a socket of the namespace listens on the port, without connecting to it (proc_net_tcp.rst)."""
    lines = space.run(Path("/proc/thread-self/net/tcp").read_text).splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)
