"""With each hook left out in turn its stages are null, their time is unattributed, and the others stay.

The recorder runs in this process, the same turns are taken each time, and what they look like with every
hook is the measure of what they look like without one.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from budget_rows import HOLDS
from conftest import require, why_no_lab, why_no_recording
from drive import SERVER, pair_of, receive
from inside import Ends, Recorded, turns_of_ports
from recording import Row
from tcptrace.acquire.providers import NONE
from tcptrace.analysis.stages import STAGES, UNATTRIBUTED
from tcptrace.lab import namespaces
from tcptrace.lab.faults import Drop
from tcptrace.lab.link import Link
from turns import MS, Times, punctual, without_jitter

TURNS, LOST = 8, 5
ONE_WAY_S = 0.003
PAUSE_S = 0.004
"""Between the client's writes, and by how much either end reads late; the server thinks a bit longer."""
PATIENT, HOLDING = SERVER, SERVER + 1
"""Server ports: of turns with pauses of every kind, and of turns whose second write Nagle holds."""

NOISE_NS = 0.5 * MS
"""Between medians of two runs of the same turns."""
RUNS = 3
"""A busy host can make one run unlike the other; what a hook's absence does it does in each."""

ARRIVAL = {"network_ns", "peer_ns", "kernel_rx_ns"}
TRANSMISSION = {"kernel_tx_ns", *HOLDS}
STAGES_OF = {
    "write entered": {"app_ns", "kernel_tx_ns"},
    "write returned": {"app_ns", "sndbuf_ns"},
    "left for the device": {"network_ns", "peer_ns", "loss_recovery_ns", *TRANSMISSION},
    "segment reached TCP": {*ARRIVAL, *TRANSMISSION},
    "data ready": {"kernel_rx_ns", "wakeup_ns", "app_late_ns"},
    "read returned": set[str](),
    "retransmission": {"loss_recovery_ns"},
    "arrived from the device": ARRIVAL,
    "waiting for a CPU": {"wakeup_ns", "app_late_ns"},
}
"""What each hook's absence makes null, as `tcptrace doctor` says it; every other stage stays."""


def patient_turn(client: socket.socket, server: socket.socket) -> None:
    """Time in every stage but the holds: both ends read late, and the client reads in two parts."""
    client.sendall(bytes(50))
    time.sleep(PAUSE_S)
    client.sendall(bytes(50))
    time.sleep(ONE_WAY_S + PAUSE_S)
    assert len(receive(server, 100)) == 100
    time.sleep(PAUSE_S + 0.001)
    server.sendall(bytes(200))
    time.sleep(ONE_WAY_S + PAUSE_S)
    assert len(receive(client, 100)) == 100
    time.sleep(PAUSE_S / 2)
    assert len(receive(client, 100)) == 100


def holding_turn(client: socket.socket, server: socket.socket) -> None:
    """Write, write, read with Nagle on: the second write waits for the delayed ACK."""
    client.sendall(bytes(50))
    client.sendall(bytes(50))
    assert len(receive(server, 100)) == 100
    server.sendall(bytes(200))
    assert len(receive(client, 200)) == 200


def recorded_turns(link: Link, path: Path, without: str = "") -> Ends:
    """Take the turns, with a recording that lacks a fact."""
    providers = {without: NONE} if without else {}
    with Recorded(path, (link.a, link.b), providers), punctual():
        with contextlib.ExitStack() as stack:
            client, server = map(stack.enter_context, pair_of(link.a, link.b, port=PATIENT))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(TURNS):
                patient_turn(client, server)
        with contextlib.ExitStack() as stack:
            client, server = map(stack.enter_context, pair_of(link.a, link.b, port=HOLDING))
            for _ in range(TURNS):
                holding_turn(client, server)
    return turns_of_ports(path)


def sums(rows: list[Row], names: set[str]) -> Times:
    """The sum of these columns in each row, nulls as 0."""
    return np.array([sum(row[name] or 0 for name in names) for row in rows], np.int64)


def usually(rows: list[Row], *names: str) -> int:
    """The median of the sum of these columns over the turns in which nothing was lost."""
    return int(np.median(sums([row for row in rows if row["seq"] != LOST], set(names))))


def nulls(rows: list[Row]) -> set[str]:
    """The stages that are null in all rows, but for the first, which may know less of what was before, and
    the one with a loss."""
    found = [{stage for stage in STAGES if row[stage] is None} for row in rows if row["seq"] not in (0, LOST)]
    assert all(one == found[0] for one in found), found
    return found[0]


def adds_up(rows: list[Row]) -> bool:
    parts = {*STAGES, UNATTRIBUTED}
    exact = (sums(rows, parts) == [row["total_ns"] for row in rows]).all()
    return bool(exact) and all((row[part] or 0) >= 0 for row in rows for part in parts)


def differences(whole: Ends, without: Ends, stages: set[str]) -> list[str]:
    """What is not as it should be where these stages cannot be known: nothing else may change."""
    wrong = []
    for end, usual in whole.items():
        rows = without.get(end, [])
        if len(rows) != TURNS or not adds_up(rows):
            wrong.append(f"{end}: {len(rows)} turns: {rows}")
            continue
        missing = nulls(rows) - nulls(usual)
        if missing != stages - nulls(usual):
            wrong.append(f"{end}: null are {sorted(missing)}")
        grown = usually(rows, UNATTRIBUTED) - usually(usual, UNATTRIBUTED)
        expected = usually(usual, *missing)
        if abs(grown - expected) > 0.1 * expected + NOISE_NS:
            wrong.append(f"{end}: unattributed grew by {grown} ns, {expected} ns became null")
        for stage in set(STAGES) - nulls(rows):
            now, before = usually(rows, stage), usually(usual, stage)
            if abs(now - before) > 0.1 * before + NOISE_NS:
                wrong.append(f"{end}: {stage} was {before} ns and is {now} ns")
    return wrong


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    require(not why_no_lab(), why_no_lab())
    require(not why_no_recording(), why_no_recording())
    lost = Drop("data", nth=(2 * LOST + 2,), direction="ab", port=PATIENT)
    with (
        namespaces.pair(wired=False) as (a, b),
        Link(a, b, delay_ns=int(ONE_WAY_S * 1e9), drops=[lost]) as link,
    ):
        yield without_jitter(link)


@pytest.fixture(scope="module")
def whole(link: Link, tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return recorded_turns(link, tmp_path_factory.mktemp("whole") / "whole.tct")


ENDS = [(port, side) for port in (PATIENT, HOLDING) for side in ("client", "server")]


@pytest.mark.parametrize(("port", "side"), ENDS)
def test_with_every_hook_no_stage_of_its_end_is_null(whole: Ends, port: int, side: str) -> None:
    rows = whole[port, side]
    assert len(rows) == TURNS and adds_up(rows)
    absent = {"network_ns", "peer_ns", "loss_recovery_ns"} if side == "server" else set()
    assert nulls(rows) == absent


def test_the_turns_have_what_they_were_made_for(whole: Ends) -> None:
    """Or a stage that nobody records could not be missed."""
    pause = PAUSE_S * 1e9
    client, server = whole[PATIENT, "client"], whole[PATIENT, "server"]
    for rows, stage, least in (
        (client, "app_ns", pause),
        (client, "network_ns", 2e9 * ONE_WAY_S),
        (client, "peer_ns", pause),
        (client, "app_late_ns", pause),
        (client, "transfer_ns", pause / 2),
        (server, "app_late_ns", pause),
        (server, "app_ns", pause),
        (whole[HOLDING, "client"], "nagle_ns", 1.9e9 * ONE_WAY_S),
    ):
        assert np.median(sums(rows, {stage})) > 0.9 * least, (stage, rows)
    # The server still owes the ACK of the first write when the second comes at last.
    assert client[LOST]["loss_recovery_ns"] > 10 * MS, client[LOST]


@pytest.mark.parametrize("hook", STAGES_OF)
def test_without_a_hook_its_stages_are_null_and_their_time_is_unattributed(
    link: Link, whole: Ends, tmp_path: Path, hook: str
) -> None:
    for run in range(RUNS):
        rows = recorded_turns(link, tmp_path / f"{run}.tct", hook)
        wrong = differences(whole, rows, STAGES_OF[hook])
        if not wrong:
            break
    assert not wrong, "\n".join([f"without {hook}:", *wrong])


def test_without_the_hook_of_retransmissions_a_loss_is_unattributed(
    link: Link, whole: Ends, tmp_path: Path
) -> None:
    without = recorded_turns(link, tmp_path / "without.tct", "retransmission")
    usual, struck = whole[PATIENT, "client"][LOST], without[PATIENT, "client"][LOST]
    assert (struck["loss_recovery_ns"], struck["retransmit_kind"]) == (None, None)
    assert struck[UNATTRIBUTED] > 0.8 * usual["loss_recovery_ns"], (usual, struck)


def test_without_the_hook_of_reads_there_are_no_turns(link: Link, whole: Ends, tmp_path: Path) -> None:
    assert not recorded_turns(link, tmp_path / "without.tct", "read")


def test_without_the_hook_of_writes_a_hold_may_be_another(link: Link, whole: Ends, tmp_path: Path) -> None:
    """A write with MSG_MORE is held like one that Nagle holds: only its own flags tell."""
    assert not any(row["hold_ambiguous"] for rows in whole.values() for row in rows)
    without = recorded_turns(link, tmp_path / "without.tct", "write entered")
    held = [row for row in without[HOLDING, "client"] if row["nagle_ns"] or row["cork_ns"]]
    assert len(held) >= TURNS - 1, without[HOLDING, "client"]
    assert all(row["hold_ambiguous"] for row in held)
