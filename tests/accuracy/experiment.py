"""One experiment: connections over a link, recorded by the real command and captured at both ends."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tcptrace.errors import TcptraceError
from tcptrace.lab import link, namespaces
from tcptrace.lab.namespaces import SIDE_B, Namespace
from witness import Capture, Handshake

PORT = 7700
CONNECTIONS = 500
ATTEMPTS = 3
"""The machine may be shared: a run that misses its bounds is repeated as a whole, at most twice."""
MEDIAN_NS, P99_NS = 5_000, 50_000
CORRELATION = 0.9
READY_SECONDS = 15.0
COMMAND = [sys.executable, "-m", "tcptrace"]

Differences = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Experiment:
    """What is done and what must come out.

    `delays_ns` is the relay's one-way delay for each connection in turn; none at all means a veth.
    `burst` connections are opened back to back, then all is quiet until they are established.
    """

    name: str
    title: str
    delays_ns: tuple[int, ...] = ()
    burst: int = 1
    bounded: bool = False
    """The differences have bounds: MEDIAN_NS and P99_NS."""
    correlated: bool = False
    """Recorded and captured times must correlate above CORRELATION."""


def spread_ns(count: int, longest_ns: int, seed: int = 1) -> tuple[int, ...]:
    """So many delays between nothing and the longest, the same ones in each run."""
    return tuple(int(delay) for delay in np.random.default_rng(seed).uniform(0, longest_ns, count))


VETH = Experiment("veth", "veth, one connection after another", bounded=True)
RELAY = Experiment(
    "relay", "relay with 10 ms each way, bursts of 20", delays_ns=(10_000_000,), burst=20, bounded=True
)
VARYING = Experiment(
    "varying",
    "relay with 0 to 5 ms each way, another for each connection, bursts of 20",
    delays_ns=spread_ns(CONNECTIONS, 5_000_000),
    burst=20,
    correlated=True,
)
IDLE = Experiment("idle", "relay with 10 ms each way, one connection after another", delays_ns=(10_000_000,))
EXPERIMENTS = (VETH, RELAY, VARYING, IDLE)


@dataclass(frozen=True)
class Side:
    """One end's comparison, in ns: what was recorded, what was captured, per connection."""

    recorded: Differences
    captured: Differences
    missing: int
    """Connections without a row, or whose row has no handshake_ns, or with a repeated packet."""

    @property
    def differences(self) -> Differences:
        return self.recorded - self.captured

    def quantile_us(self, share: float) -> float:
        """A quantile of |difference| in us."""
        return float(np.quantile(np.abs(self.differences), share)) / 1e3

    @property
    def correlation(self) -> float:
        """Pearson's."""
        return float(np.corrcoef(self.recorded, self.captured)[0, 1])


@dataclass(frozen=True)
class Outcome:
    """The sides "active" and "passive" of the run that counts, and how many it took."""

    experiment: Experiment
    sides: dict[str, Side]
    attempts: int
    failures: tuple[str, ...]


def failures(experiment: Experiment, sides: dict[str, Side]) -> tuple[str, ...]:
    """A sentence for each bound that is broken."""
    broken = []
    for role, side in sides.items():
        count = len(side.differences)
        if side.missing > count // 50:  # one in a thousand passive ends has none, see the document
            broken.append(f"{role}: {side.missing} of {count + side.missing} cannot be compared")
            continue
        if experiment.bounded:
            for share, bound_ns in ((0.5, MEDIAN_NS), (0.99, P99_NS)):
                if (value := side.quantile_us(share)) > bound_ns / 1e3:
                    broken.append(f"{role}: {value:.1f} us at {share:.0%}, bound {bound_ns / 1e3:g} us")
        if experiment.correlated and not side.correlation > CORRELATION:
            broken.append(f"{role}: correlation {side.correlation:.3f}, bound {CORRELATION}")
    return tuple(broken)


def measure(
    experiment: Experiment, count: int = CONNECTIONS, say: Callable[[str], object] = lambda text: None
) -> Outcome:
    """Run an experiment until it keeps its bounds, at most ATTEMPTS times."""
    for attempt in range(1, ATTEMPTS + 1):
        sides = run(experiment, count)
        broken = failures(experiment, sides)
        for sentence in broken:
            say(f"{experiment.name}, run {attempt} of at most {ATTEMPTS}: {sentence}")
        if not broken:
            break
    return Outcome(experiment, sides, attempt, broken)


def run(experiment: Experiment, count: int) -> dict[str, Side]:
    """One run: both sides by role."""
    with contextlib.ExitStack() as stack:
        client, server = stack.enter_context(namespaces.pair(wired=not experiment.delays_ns))
        device = "veth0"
        if experiment.delays_ns:
            path = link.Link(client, server, flow_delays_ns=experiment.delays_ns)
            device = stack.enter_context(path).device
        near = stack.enter_context(Capture(client, device))
        far = stack.enter_context(Capture(server, device))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tcptrace-accuracy-")))
        with (
            _recording(directory / "accuracy.tct", client, server) as rows,
            _connections(client, server, experiment, count),
        ):
            captured = {"active": near.handshakes(count), "passive": far.handshakes(count)}
        return {role: compare(rows, role, shakes) for role, shakes in captured.items()}


def compare(rows: Sequence[dict[str, Any]], role: str, shakes: dict[int, Handshake]) -> Side:
    """Join rows and captured handshakes of one end by the client's port."""
    port, first = ("local_port", "syn_ns") if role == "active" else ("remote_port", "synack_ns")
    recorded = {row[port]: row["handshake_ns"] for row in rows if row["role"] == role}
    pairs = [
        (recorded[number], shake.ack_ns - getattr(shake, first))
        for number, shake in shakes.items()
        if recorded.get(number) is not None and not shake.repeated
    ]
    values = np.array(pairs, np.int64).reshape(-1, 2)
    return Side(values[:, 0], values[:, 1], len(shakes) - len(pairs))


@contextlib.contextmanager
def _connections(client: Namespace, server: Namespace, experiment: Experiment, count: int) -> Iterator[None]:
    """Open the connections; they stay open in the block, so that no close disturbs a handshake."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(server.socket())
        listener.bind((SIDE_B.ipv4, PORT))
        listener.listen(count)
        sockets = [stack.enter_context(client.socket()) for _ in range(count)]
        quiet_s = 0.015 + 3 * max(experiment.delays_ns, default=0) / 1e9
        for start in range(0, count, experiment.burst):
            if experiment.burst == 1:
                sockets[start].settimeout(10)
                sockets[start].connect((SIDE_B.ipv4, PORT))
                continue
            some = sockets[start : start + experiment.burst]
            for one in some:
                one.setblocking(False)
                one.connect_ex((SIDE_B.ipv4, PORT))
            # Asleep, not polling: the arrivals must not wake us, and the next burst starts from quiet.
            time.sleep(quiet_s)
            for one in some:
                _wait_connected(one)
        yield


def _wait_connected(one: socket.socket) -> None:
    if not select.select([], [one], [], 10)[1] or one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise TcptraceError("a connection of the experiment failed")


@contextlib.contextmanager
def _recording(path: Path, *spaces: Namespace) -> Iterator[list[dict[str, Any]]]:
    """`tcptrace record` of these namespaces during the block; the rows appear in the list at its end."""
    filters = [word for space in spaces for word in ("--netns", str(space.inode))]
    messages = path.with_suffix(".stderr")
    rows: list[dict[str, Any]] = []
    with messages.open("wb") as stderr:
        child = subprocess.Popen([*COMMAND, "record", "-o", str(path), *filters], stderr=stderr)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not messages.read_text().startswith("recording"):
            if child.poll() is not None or time.monotonic() > deadline:
                said = messages.read_text().strip().splitlines() or ["it says nothing"]
                raise TcptraceError(f"record does not start: {said[-1]}")
            time.sleep(0.02)
        yield rows
        child.send_signal(signal.SIGINT)
        child.wait(READY_SECONDS)
    finally:
        namespaces.stop(child)
    # Exit code 5 is no objection: every connection must have its row, and each is looked up.
    shown = subprocess.run(
        [*COMMAND, "connections", str(path), "--format", "ndjson"],
        capture_output=True,
        text=True,
        check=False,
    )
    rows += [json.loads(line) for line in shown.stdout.splitlines()]
