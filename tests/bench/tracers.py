"""Tracers under test: how each one is started, known to be ready, stopped, and asked what it saw."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import host
from load import Load

START_TIMEOUT_S = 90  # BCC compiles first
STOP_TIMEOUT_S = 60


class BenchError(Exception):
    """A tracer that could not be measured, with what it said."""


@dataclass(frozen=True)
class Seen:
    """What a tracer has of the load's port, both ends added up; None for what it does not tell.

    `rows` are connections. `turns` have a record or are in a sum; `single` have a record each. `lost` is by
    cause, of the whole host.
    """

    rows: int
    turns: int | None = None
    single: int | None = None
    lost: dict[str, int] | None = None
    trace_bytes: int | None = None


@dataclass(frozen=True)
class Traced:
    """One run of the load under a tracer.

    `start_s` is the time from the command to readiness. `cpu_s` is the tracer's own user and system time from
    start to exit; `cpu_load_s` what it used while the load ran, in steps of 10 ms. `programs` is filled only
    when the kernel's BPF statistics are on.
    """

    load: Load
    start_s: float
    cpu_s: float
    cpu_load_s: float
    seen: Seen
    programs: list[host.ProgramCost] = field(default_factory=list)


@dataclass(frozen=True)
class Process:
    pid: int
    popen: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    def said(self) -> str:
        return self.stderr.read_text(errors="replace")[-2000:]


class Tracer:
    """Runs a command around a load; subclasses say when it is ready and what it saw."""

    name: str

    def command(self, directory: Path) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def ready(self, process: Process) -> bool:
        raise NotImplementedError

    def saw(self, directory: Path, process: Process, load: Load) -> Seen:
        """Asked after the tracer has ended."""
        raise NotImplementedError

    def run(self, load: Callable[[], Load], *, statistics: bool = False) -> Traced:
        with tempfile.TemporaryDirectory(prefix="tcptrace-bench-") as name:
            directory = Path(name)
            stdout, stderr = directory / "stdout", directory / "stderr"
            began = time.monotonic()
            with stdout.open("wb") as out, stderr.open("wb") as err:
                popen = subprocess.Popen(
                    self.command(directory),
                    stdout=out,
                    stderr=err,
                    stdin=subprocess.DEVNULL,
                    env=self.environment(),
                )
            process = Process(popen.pid, popen, stdout, stderr)
            try:
                self._wait_until_ready(process)
                start_s = time.monotonic() - began
                programs = host.program_costs(popen.pid) if statistics else {}
                cpu_before = host.cpu_seconds(popen.pid)
                done = load()
                cpu_load_s = host.cpu_seconds(popen.pid) - cpu_before
                costs = host.cost_between(programs, host.program_costs(popen.pid)) if statistics else []
                cpu_s = self._stop(process)
            finally:
                if popen.returncode is None:
                    popen.kill()
                    popen.wait()
            return Traced(done, start_s, cpu_s, cpu_load_s, self.saw(directory, process, done), costs)

    def _wait_until_ready(self, process: Process) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.ready(process):
            if process.popen.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{self.name} did not start: {process.said().strip()}")
            time.sleep(0.02)

    def _stop(self, process: Process) -> float:
        """Ctrl-C, and the CPU time of the whole life of the process."""
        process.popen.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} did not stop: {process.said().strip()}")
            time.sleep(0.01)
        process.popen.returncode = os.waitstatus_to_exitcode(status)
        self.check_exit(process)
        return usage.ru_utime + usage.ru_stime

    def check_exit(self, process: Process) -> None:
        pass


class Tcptrace(Tracer):
    name = "tcptrace"

    def __init__(self, options: list[str]) -> None:
        self.options = options
        self.program = str(Path(sys.executable).with_name("tcptrace"))

    def command(self, directory: Path) -> list[str]:
        return [self.program, "record", "-o", str(directory / "bench.tct"), *self.options]

    def ready(self, process: Process) -> bool:
        return re.search(r"^recording", process.stderr.read_text(errors="replace"), re.MULTILINE) is not None

    def check_exit(self, process: Process) -> None:
        if process.popen.returncode not in (0, 5):
            raise BenchError(f"record ended with {process.popen.returncode}: {process.said().strip()}")

    def saw(self, directory: Path, process: Process, load: Load) -> Seen:
        import pyarrow.compute as pc

        from tcptrace.analysis.connections import connections
        from tcptrace.trace.reader import read
        from tcptrace.trace.wire import Kind

        path = directory / "bench.tct"
        trace = read(path)
        rows = connections(trace)
        port = pc.or_(pc.equal(rows["local_port"], load.port), pc.equal(rows["remote_port"], load.port))
        ours = pc.and_(port, pc.equal(rows["netns"], Path("/proc/self/ns/net").stat().st_ino))
        ids = rows["connection_id"].filter(ours)
        turns = trace.exchanges.filter(pc.is_in(trace.exchanges["connection_id"], ids.combine_chunks()))
        return Seen(
            rows=len(ids),
            turns=pc.sum(turns["summed"]).as_py() or 0,
            single=pc.sum(pc.equal(turns["kind"], int(Kind.EXCHANGE))).as_py() or 0,
            lost={"total": sum(trace.losses.values()), **trace.losses},
            trace_bytes=path.stat().st_size,
        )


class Peer(Tracer):
    """Another tracer of connections, as its distribution ships it, writing its table to a file."""

    def __init__(self, name: str, program: str, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.program = program
        self.extra = environment or {}
        self._first_seen: float | None = None

    def command(self, directory: Path) -> list[str]:
        if Path("/sys/kernel/tracing/events").exists():
            return [self.program]
        # These need tracefs; it is mounted for them alone.
        mount = 'mount -t tracefs tracefs /sys/kernel/tracing && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mount, "sh", self.program]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.extra}

    def ready(self, process: Process) -> bool:
        """It does not say when it is; its programs exist, and a second later they are attached too."""
        if not host.program_ids(process.pid):
            self._first_seen = None
            return False
        self._first_seen = self._first_seen or time.monotonic()
        return time.monotonic() - self._first_seen > 1

    def saw(self, directory: Path, process: Process, load: Load) -> Seen:
        port = re.compile(rb"(?<![\d.])%d(?![\d.])" % load.port)
        with process.stdout.open("rb") as lines:
            return Seen(rows=sum(1 for line in lines if port.search(line)))


def installed_peers(scratch: Path) -> tuple[list[Peer], list[str]]:
    """Peers found on this host, and sentences on those that are not."""
    peers, missing = [], []
    for name, program in (("bcc tcplife (C)", "tcplife"), ("bcc tcpstates (C)", "tcpstates")):
        path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
        if path:
            peers.append(Peer(name, path))
        else:
            missing.append(f"{name} is not installed (libbpf-tools)")
    path = shutil.which("tcpstates-bpfcc", path=os.environ["PATH"] + ":/usr/sbin")
    headers = kernel_headers(scratch) if path else None
    if path and headers is not None:
        peers.append(Peer("bcc tcpstates (Python)", path, headers))
    else:
        missing.append("bcc tcpstates (Python) is not installed (bpfcc-tools, kernel headers)")
    return peers, missing


def kernel_headers(scratch: Path) -> dict[str, str] | None:
    """The environment in which BCC finds headers: {} for the running kernel's own.

    Debian splits headers in two trees. Merged, those of another version serve tools that read tracepoint
    fields only. None when there are none.
    """
    if Path(f"/lib/modules/{os.uname().release}/build").exists():
        return {}
    for tree in sorted(Path("/usr/src").glob("linux-headers-*-amd64"), reverse=True):
        common = Path(str(tree).replace("-amd64", "-common"))
        if common.is_dir():
            for part in (common, tree):
                subprocess.run(["cp", "-rsf", f"{part}/.", str(scratch)], check=True)
            return {"BCC_KERNEL_SOURCE": str(scratch)}
    return None
