"""Record with the real command, read the rows with the real command, and compare whole rows.

A test states for EVERY column what the row must say; :func:`expect` fails on any column that is null
though known, has a value though it cannot be known, or is missing from the test's statement.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
from drive import SERVER, comm, poll
from lacking import PATIENCE, SLACK, may_lack
from tcptrace.lab.namespaces import SIDE_A, SIDE_B, Namespace

Row = dict[str, Any]

COMMAND = (
    [str(Path(sys.executable).parent / "tcptrace")]
    if Path(sys.executable).parent.joinpath("tcptrace").exists()
    else [sys.executable, "-m", "tcptrace"]
)
READY_SECONDS = 15.0 * PATIENCE
STOP_SECONDS = 15.0 * PATIENCE
READ_SECONDS = 60 * PATIENCE
WALL_SLACK_NS = round(5_000_000 * SLACK)
"""Between this process's idea of the wall clock and the trace's, which interpolates between pairs."""


class Recording:
    """`tcptrace record` running since construction; it has printed its `recording` line by then."""

    def __init__(self, path: Path, arguments: list[str], *, space: Namespace | None = None) -> None:
        self.path = path
        self.exit_code: int | None = None
        self.remark = ""
        """What reading the rows printed on stderr."""
        self._messages = path.with_suffix(".stderr")
        command = [*COMMAND, "record", "-o", str(path), *arguments]
        with self._messages.open("wb") as messages:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": messages, "stderr": messages}
            self.process: subprocess.Popen[bytes] = (
                space.popen(command, **options) if space else subprocess.Popen(command, **options)
            )
        try:
            poll(self._is_recording, "recording", READY_SECONDS)
        except BaseException:
            self.abandon()
            raise

    def messages(self) -> str:
        """What the command has printed on stderr."""
        return self._messages.read_text(errors="replace")

    def _is_recording(self) -> bool:
        if any(line.startswith("recording") for line in self.messages().splitlines()):
            return True
        if self.process.poll() is not None:
            raise AssertionError(f"record ended with {self.process.returncode}: {self.messages().strip()}")
        return False

    def finish(self, number: int = signal.SIGINT) -> int:
        """Stop the recording as Ctrl-C does. Returns its exit code."""
        if self.exit_code is None:
            self.process.send_signal(number)
            self.exit_code = self.process.wait(STOP_SECONDS)
        return self.exit_code

    def stop(self) -> list[Row]:
        """Stop, insist that nothing of ours was lost, and return every row."""
        self.finish()
        assert self.exit_code in (0, 5), f"record ended with {self.exit_code}: {self.messages().strip()}"
        if self.exit_code == 5:
            # The whole host is traced: elsewhere the kernel may have skipped an event meanwhile.
            lost = self.lost()
            assert lost and all(is_skip(cause) for cause in lost), lost
        return self.rows(exit_code=self.exit_code)

    def rows(self, *, exit_code: int = 0) -> list[Row]:
        """The table `connections` as the command prints it."""
        done = run("connections", str(self.path), "--format", "ndjson")
        assert done.returncode == exit_code, (
            f"connections ended with {done.returncode}: {done.stderr.strip()}"
        )
        assert (exit_code == 0) == (not done.stderr), done.stderr
        self.remark = done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def info(self) -> dict[str, Any]:
        """`tcptrace info --json`."""
        done = run("info", str(self.path), "--json")
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def lost(self) -> dict[str, int]:
        """What `tcptrace info` says was lost, by cause."""
        lost: dict[str, int] = self.info()["lost"]
        total = lost.pop("total")
        assert total == sum(lost.values())
        return lost

    def abandon(self) -> None:
        """End the process whatever its state."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def is_skip(cause: str) -> bool:
    """Whether a cause of loss says that the kernel did not run a program, and its row what that cost."""
    return cause.startswith("recursion.") or cause in ("transition", "end")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command `tcptrace` to its end."""
    if SLACK > 1:
        return forked.run(arguments, READ_SECONDS)
    environment = {**os.environ, "NO_COLOR": "1"}
    options: dict[str, Any] = {"check": False, "timeout": READ_SECONDS, "env": environment}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, **options)


@dataclass(frozen=True)
class Between:
    """A number within bounds, both included."""

    low: float
    high: float

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, int | float) and not isinstance(other, bool) and self.low <= other <= self.high
        )

    __hash__ = None  # type: ignore[assignment]


class _Known:
    """Any value but null: the tracer must know it, the test cannot."""

    def __eq__(self, other: object) -> bool:
        return other is not None

    def __repr__(self) -> str:
        return "known"

    __hash__ = None  # type: ignore[assignment]


class _Unchecked:
    """Null or not: both are right."""

    def __eq__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "unchecked"

    __hash__ = None  # type: ignore[assignment]


KNOWN = _Known()
UNCHECKED = _Unchecked()
POSITIVE = Between(1, 2**63)
ISN = Between(0, 2**32 - 1)
COOKIE = UNCHECKED if may_lack("socket-cookie") else POSITIVE
"""Without the helper a socket has one when something else has asked for it."""


class Stopwatch:
    """Brackets around what a test does, so that bounds on durations are true however slow the host is."""

    def __init__(self) -> None:
        self.marks: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """The thing `name` happens within this block."""
        before = time.monotonic_ns()
        try:
            yield
        finally:
            self.marks[name] = (before, time.monotonic_ns())

    def bracket(self, names: str) -> tuple[int, int]:
        """Bounds on an instant that lies in one of the blocks named, joined by "+"."""
        marks = [self.marks[name] for name in names.split("+")]
        return min(before for before, _ in marks), max(after for _, after in marks)

    def gap(self, first: str, second: str) -> Between:
        """Bounds on the time from an instant in `first` to one in `second` (see :meth:`bracket`)."""
        begin, end = self.bracket(first), self.bracket(second)
        return Between(max(0, end[0] - begin[1]), end[1] - begin[0])

    def within(self, names: str) -> Between:
        """Bounds on the length of something inside these blocks."""
        begin, end = self.bracket(names)
        return Between(0, end - begin)

    def wall(self, names: str) -> Between:
        """Wall-clock bounds on an instant."""
        offset = time.time_ns() - time.monotonic_ns()
        begin, end = self.bracket(names)
        return Between(begin + offset - WALL_SLACK_NS, end + offset + WALL_SLACK_NS)


STATE_TIMES = (
    "syn_sent_ns", "syn_recv_ns", "established_ns", "fin_wait1_ns", "fin_wait2_ns", "closing_ns",
    "time_wait_ns", "close_wait_ns", "last_ack_ns",
)  # fmt: skip
AGREED = ("mss", "snd_wscale", "rcv_wscale", "sack", "timestamps", "ecn", "tfo")
SOME = Between(0, 2**63)
BUDGET = {
    "pattern": KNOWN,
    **dict.fromkeys(("exchanges", "pipelined", "unread_ns"), SOME),
    **{f"held_{cause}_ns": SOME for cause in ("nagle", "cork", "cwnd", "rwnd", "pacing", "sndbuf")},
}
"""What a default recording says of the turns of any connection; the budget's own tests know more."""
SERVER_SIDE = {
    "local_addr": SIDE_B.ipv4,
    "local_port": SERVER,
    "remote_addr": SIDE_A.ipv4,
    "remote_port": KNOWN,
}
CLIENT_SIDE = {
    "local_addr": SIDE_A.ipv4,
    "local_port": KNOWN,
    "remote_addr": SIDE_B.ipv4,
    "remote_port": SERVER,
}


def finished(space: Namespace, role: str, **known: Any) -> dict[str, Any]:
    """What a row of a connection says that was established and closed by FIN between SIDE_A and SIDE_B.

    State times other than those of the handshake and ESTABLISHED are null unless the test says otherwise.
    """
    active = role == "active"
    return {
        "connection_id": POSITIVE,
        "cookie": COOKIE,
        "netns": space.inode,
        "family": "ipv4",
        "v4_mapped": False,
        **(CLIENT_SIDE if active else SERVER_SIDE),
        "role": role,
        "pid": os.getpid(),
        "comm": comm(),
        "started_ns": POSITIVE,
        "ended_ns": POSITIVE,
        "handshake_ns": POSITIVE,
        "handshake_exact": True,
        "syn_retransmits": 0,
        "synack_retransmits": 0,
        **dict.fromkeys((*STATE_TIMES, "time_wait_exact")),
        "syn_sent_ns": POSITIVE if active else None,
        "syn_recv_ns": None if active else POSITIVE,
        "established_ns": POSITIVE,
        "mss": 1460,
        "snd_wscale": KNOWN,
        "rcv_wscale": KNOWN,
        "sack": True,
        "timestamps": True,
        "ecn": False,
        "tfo": False,
        "snd_isn": ISN,
        "rcv_isn": ISN,
        "congestion_control": KNOWN,
        "retransmits": 0,
        "srtt_us": POSITIVE,
        "min_rtt_us": POSITIVE,
        "bytes_sent": 0,
        "bytes_received": 0,
        "segments_sent": POSITIVE,
        "segments_received": POSITIVE,
        "close_reason": "fin",
        "initiator": KNOWN,
        "left_censored": False,
        "right_censored": False,
        "state": None,
        **BUDGET,
        **known,
    }


def never_established(space: Namespace, **known: Any) -> dict[str, Any]:
    """What a row of a connect() says that came to nothing: nothing was agreed on and no byte went over."""
    return finished(
        space,
        "active",
        **{
            **dict.fromkeys(AGREED),
            "synack_retransmits": None,
            "handshake_ns": None,
            "handshake_exact": None,
            "established_ns": None,
            "rcv_isn": None,
            "srtt_us": None,
            "min_rtt_us": None,
            "segments_received": UNCHECKED,
            **known,
        },
    )


def expect(row: Row, statement: dict[str, Any]) -> None:
    """Compare a whole row with what the test knows; all differences are reported at once."""
    wrong = []
    for column in dict.fromkeys((*statement, *row)):
        if column not in row:
            wrong.append(f"{column}: no such column")
        elif column not in statement:
            wrong.append(f"{column}: the test does not say what it expects (it is {row[column]!r})")
        elif not _matches(statement[column], row[column]):
            wrong.append(f"{column}: is {row[column]!r}, known to be {statement[column]!r}")
    wrong += _inconsistencies(row)
    assert not wrong, "\n".join(["a row is wrong:", *wrong, f"row: {row}"])


def _matches(stated: Any, value: Any) -> bool:
    if isinstance(stated, bool) or isinstance(value, bool):
        return stated is value if isinstance(stated, bool) else bool(stated == value)
    return bool(stated == value)


def _inconsistencies(row: Row) -> list[str]:
    """What must hold within any row, whatever it describes."""
    wrong = []
    if (row["pid"] is None) != (row["comm"] is None):
        wrong.append("pid and comm are known together or not at all")
    if row["pattern"] is not None:
        turns = (row["exchanges"] > 0, row["pipelined"] > 0)
        patterns = {(True, False): ("turns",), (True, True): ("mixed",)}.get(turns, ("stream", "none"))
        if row["pattern"] not in patterns:
            wrong.append(f"the pattern {row['pattern']} does not fit {row['exchanges']} exchanges")
    times = [row[column] for column in STATE_TIMES if row[column] is not None]
    if any(value < 0 for value in times):
        wrong.append("a negative time in a state")
    if row["started_ns"] is not None and row["ended_ns"] is not None and times:
        # FIN_WAIT2 and TIME_WAIT held without the socket lie after `ended_ns` and are null.
        spare = row["ended_ns"] - row["started_ns"] - sum(times)
        if abs(spare) > WALL_SLACK_NS:
            wrong.append(f"the times in its states miss {spare} ns of its life")
    return wrong


def only(rows: list[Row], **where: Any) -> Row:
    """The one row with these values."""
    found = [row for row in rows if all(_matches(value, row[name]) for name, value in where.items())]
    assert len(found) == 1, f"{len(found)} rows with {where}, of {len(rows)}: {found or rows}"
    return found[0]


def ends(rows: list[Row], client: Namespace, server: Namespace) -> tuple[Row, Row]:
    """The two ends of the only connection: the row in the client's namespace and in the server's."""
    rows = [row for row in rows if row["netns"] in (client.inode, server.inode)]
    assert len(rows) == 2, f"{len(rows)} rows instead of two: {rows}"
    left, right = only(rows, netns=client.inode), only(rows, netns=server.inode)
    assert left["connection_id"] != right["connection_id"]
    if left["snd_isn"] is not None and right["rcv_isn"] is not None:
        assert (left["snd_isn"], left["rcv_isn"]) == (right["rcv_isn"], right["snd_isn"])
        assert left["local_port"] == right["remote_port"]
    return left, right
