"""Every provider of every fact is forced once over the same turns: all tell the same, and the truth.

Providers are forced in layers: of every fact the first that this kernel has, then the second of each that has
two, and so on. One that does not attach is left out of its layer; where TCPTRACE_MAY_LACK is set, its
capability must be named there. TCPTRACE_SLACK multiplies the absolute parts of the bounds.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from conftest import require
from drive import SERVER, pair_of, receive
from inside import Ends, Recorded, turns_of_ports
from lacking import MAY_LACK, SLACK
from recording import Row, is_skip
from tcptrace.acquire.choice import Choice
from tcptrace.acquire.kernel import KernelTypes
from tcptrace.acquire.providers import BUDGET, LIFECYCLE, Fact, Provider
from tcptrace.analysis.stages import STAGES
from tcptrace.errors import HostError
from tcptrace.lab import namespaces
from tcptrace.lab.namespaces import Namespace
from tcptrace.trace import reader
from turns import MS, punctual

pytestmark = pytest.mark.matrix

FACTS = LIFECYCLE + BUDGET
PROVIDERS = [(fact, provider) for fact in FACTS for provider in fact.providers]
TURNS = 6
PAUSE_S = 0.03
PATIENT, HOLDING, FILE = SERVER, SERVER + 1, SERVER + 2
"""Server ports: of turns with a pause everywhere, of turns that Nagle holds, of requests by sendfile()."""
SHARE = 0.1
SLACK_NS = 1.0 * MS * SLACK

Truth = dict[tuple[int, str], dict[tuple[str, ...], list[int]]]
"""Server port and side -> columns -> the time that they take together, a number for each turn."""


@dataclass
class Layer:
    """One recording: what was forced, what the trace says of itself and of the turns, and the truth."""

    providers: dict[str, str]
    hooks: dict[str, Any]
    losses: dict[str, int]
    ends: Ends
    truth: Truth


@dataclass
class Outcome:
    """All layers; `missing`: (fact, provider) -> why it is in none."""

    layers: list[Layer] = field(default_factory=list)
    missing: dict[tuple[str, str], str] = field(default_factory=dict)

    def layer_of(self, fact: Fact, provider: Provider) -> Layer:
        return next(one for one in self.layers if one.providers.get(fact.name) == provider.name)


class Clock:
    """Notes instants of a turn, and what lies between them."""

    def __init__(self, truth: Truth, port: int) -> None:
        self.truth, self.port = truth, port

    def add(self, side: str, begin: int, end: int, *columns: str) -> None:
        of_end = self.truth.setdefault((self.port, side), {})
        of_end.setdefault(columns, []).append(end - begin)


def pause() -> int:
    time.sleep(PAUSE_S)
    return time.monotonic_ns()


def patient_turn(client: socket.socket, server: socket.socket, clock: Clock) -> None:
    """Two writes with a pause, a late reader, a think time, a late reader."""
    first = time.monotonic_ns()
    client.sendall(bytes(50))
    written = time.monotonic_ns()
    second = pause()
    client.sendall(bytes(50))
    read = pause()
    assert len(receive(server, 100)) == 100
    got = time.monotonic_ns()
    answer = pause()
    server.sendall(bytes(200))
    answered = time.monotonic_ns()
    late = pause()
    assert len(receive(client, 200)) == 200
    over = time.monotonic_ns()
    clock.add("client", written, second, "app_ns")
    clock.add("client", second, answer, "network_ns", "peer_ns")
    clock.add("client", answer, late, "wakeup_ns", "app_late_ns")
    clock.add("client", first, over, "total_ns")
    clock.add("server", first, read, "wakeup_ns", "app_late_ns")
    clock.add("server", got, answer, "app_ns")
    clock.add("server", first, answered, "total_ns")


def holding_turn(client: socket.socket, server: socket.socket, clock: Clock) -> None:
    """Write, write, read with Nagle on: the second write waits for the delayed ACK."""
    first = time.monotonic_ns()
    client.sendall(bytes(50))
    client.sendall(bytes(50))
    written = time.monotonic_ns()
    assert len(receive(server, 50)) == 50
    half = time.monotonic_ns()
    assert len(receive(server, 50)) == 50
    got = time.monotonic_ns()
    server.sendall(bytes(200))
    assert len(receive(client, 200)) == 200
    clock.add("client", written, got, "nagle_ns")
    clock.add("server", half, got, "transfer_ns")
    clock.add("client", first, time.monotonic_ns(), "total_ns")


def file_turn(client: socket.socket, server: socket.socket, clock: Clock, file: int) -> None:
    """A request by sendfile(), which older kernels write page by page."""
    first = time.monotonic_ns()
    assert os.sendfile(client.fileno(), file, 0, 100) == 100
    assert len(receive(server, 100)) == 100
    got = time.monotonic_ns()
    answer = pause()
    server.sendall(bytes(200))
    assert len(receive(client, 200)) == 200
    clock.add("client", got, answer, "network_ns", "peer_ns")
    clock.add("client", first, time.monotonic_ns(), "total_ns")
    clock.add("server", got, answer, "app_ns")


def take_turns(a: Namespace, b: Namespace, file: int) -> Truth:
    truth: Truth = {}
    for port, turn, more in (
        (PATIENT, patient_turn, ()),
        (HOLDING, holding_turn, ()),
        (FILE, file_turn, (file,)),
    ):
        with contextlib.ExitStack() as stack:
            client, server = map(stack.enter_context, pair_of(a, b, port=port))
            for one in (client, server):
                one.settimeout(None)  # a time limit would poll instead
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, port != HOLDING)
            for _ in range(TURNS):
                turn(client, server, Clock(truth, port), *more)
    return truth


def possible() -> tuple[dict[str, list[Provider]], dict[tuple[str, str], str]]:
    """Fact -> providers that this kernel has by its types, and why it has not the others."""
    types = KernelTypes()
    try:
        hooks = Choice(FACTS, types).hooks()
    finally:
        types.close()
    listed = [(hook.fact, provider, reason) for hook in hooks for provider, reason in hook.providers]
    found: dict[str, list[Provider]] = {}
    for fact, provider, reason in listed:
        if reason is None:
            found.setdefault(fact, []).append(provider)
    return found, {(fact, provider.name): reason for fact, provider, reason in listed if reason}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Records each layer, once more without what does not attach."""
    folder = tmp_path_factory.mktemp("layers")
    (folder / "file").write_bytes(bytes(100))
    candidates, missing = possible()
    result = Outcome(missing=missing)
    with namespaces.pair() as (a, b), open(folder / "file", "rb") as file:
        for number in range(max(map(len, candidates.values()))):
            forced = {fact: some[number].name for fact, some in candidates.items() if len(some) > number}
            path = folder / f"{number}.tct"
            while forced:
                try:
                    recorded = Recorded(path, (a, b), forced)
                except HostError as error:
                    named = re.match(r"--provider '(.+?)=(\S+)': (.*)", str(error))
                    assert named, error
                    result.missing[named[1], named[2]] = named[3]
                    del forced[named[1]]
                    continue
                with recorded, punctual():
                    truth = take_turns(a, b, file.fileno())
                hooks = {hook["fact"]: hook for hook in reader.read(path).header["hooks"]}
                result.layers.append(Layer(forced, hooks, recorded.losses, turns_of_ports(path), truth))
                break
    yield result


@pytest.fixture
def layer(outcome: Outcome, fact: Fact, provider: Provider) -> Layer:
    """The recording with this provider; skips where it does not attach."""
    reason = outcome.missing.get((fact.name, provider.name))
    if reason is None:
        return outcome.layer_of(fact, provider)
    if MAY_LACK in os.environ:
        require(False, f"{provider.name}: {reason}", provider.capability)
    pytest.skip(f"{provider.name}: {reason}")  # on a host others serve, and their own tests insist on them


every_provider = pytest.mark.parametrize(
    ("fact", "provider"), PROVIDERS, ids=[f"{fact.name}-{provider.name}" for fact, provider in PROVIDERS]
)


@every_provider
def test_it_is_used_and_marked(layer: Layer, fact: Fact, provider: Provider) -> None:
    hook = layer.hooks[fact.name]
    assert (hook["provider"], hook["exact"]) == (provider.name, provider.exact)
    assert [one["provider"] for one in hook["providers"] if one["used"]] == [provider.name]
    assert ("estimated: " in (hook["reason"] or "")) == (not provider.exact)
    assert all(is_skip(cause) for cause in layer.losses), layer.losses


def median(rows: list[Row], columns: tuple[str, ...]) -> float:
    """Over the turns but the first, which may know less of what was before."""
    return float(np.median([sum(row[column] or 0 for column in columns) for row in rows[1:]]))


@every_provider
def test_it_tells_the_truth(layer: Layer, fact: Fact, provider: Provider) -> None:
    wrong = []
    for end, columns in layer.truth.items():
        rows = layer.ends.get(end, [])
        if len(rows) != TURNS:
            wrong.append(f"{end}: {len(rows)} turns")
            continue
        for names, times in columns.items():
            told, true = median(rows, names), float(np.median(times[1:]))
            if abs(told - true) > SHARE * true + SLACK_NS:
                wrong.append(f"{end}: {'+'.join(names)} is {told / MS:.3f} ms, truly {true / MS:.3f}")
    counts = [(row["writes"], row["reads"]) for row in layer.ends.get((PATIENT, "client"), [])]
    if counts != [(2, 1)] * TURNS:
        wrong.append(f"writes and reads are {counts}")
    counts = [(row["writes"], row["reads"]) for row in layer.ends.get((FILE, "client"), [])]
    if counts != [(1, 1)] * TURNS:
        wrong.append(f"writes by sendfile and reads are {counts}")
    assert not wrong, "\n".join([f"{layer.providers}:", *wrong])


@every_provider
def test_it_tells_what_the_best_ones_tell(
    outcome: Outcome, layer: Layer, fact: Fact, provider: Provider
) -> None:
    wrong = []
    best = outcome.layers[0]
    for end, usual in best.ends.items():
        rows = layer.ends.get(end, [])
        if len(rows) != len(usual):
            wrong.append(f"{end}: {len(rows)} turns instead of {len(usual)}")
            continue
        measured = {column for columns in layer.truth.get(end, {}) for column in columns}
        for stage in STAGES:
            nulls = [[row[stage] is None for row in some[1:]] for some in (rows, usual)]
            if nulls[0] != nulls[1]:
                wrong.append(f"{end}: {stage} is not null in the same turns")
            if stage in measured:
                continue  # a busy host's pauses differ, and are compared with the clock's
            now, before = median(rows, (stage,)), median(usual, (stage,))
            if abs(now - before) > 2 * SHARE * before + SLACK_NS:
                wrong.append(f"{end}: {stage} is {now / MS:.3f} ms, else {before / MS:.3f}")
    assert not wrong, "\n".join([f"{layer.providers}:", *wrong])
