"""The table of per-socket state where it is full, and where sockets went away without telling."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from conftest import require, why_no_recording
from drive import SERVER, connect, linger_zero, listen
from objects import compile_object, lifecycle_source
from recording import Row, run
from tcptrace import resources
from tcptrace.acquire import loader
from tcptrace.acquire.filters import Filters
from tcptrace.acquire.recorder import Options, Recorder
from tcptrace.errors import EXIT_OK
from tcptrace.lab.namespaces import SIDE_B, Namespace
from tcptrace.trace.wire import Counter

Wired = tuple[Namespace, Namespace]

OPEN_AT_ONCE = 60
ROUNDS = 300


@pytest.fixture(autouse=True)
def _can_record() -> None:
    require(not why_no_recording(), why_no_recording())
    require(shutil.which("clang") is not None, "no clang: apt install clang")


def rows_of(recorder: Recorder, path: Path) -> list[Row]:
    losses = recorder.stop()
    done = run("connections", str(path), "--format", "ndjson")
    assert not losses and done.returncode == EXIT_OK, (losses, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def record_in(spaces: Wired, path: Path) -> Recorder:
    return Recorder(Options(path, Filters(namespaces=tuple(str(space.inode) for space in spaces))))


def test_what_does_not_fit_goes_elsewhere_and_nothing_is_lost(
    wired: Wired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen slots for 120 sockets that are open at once."""
    a, b = wired
    object_ = compile_object(lifecycle_source(), tmp_path, "-DTT_BUCKET_BITS=1")
    monkeypatch.setattr(resources, "bpf_object", lambda name: object_)
    recorder = record_in(wired, tmp_path / "full.tct")
    ports = []
    try:
        recorder.start()
        assert recorder._programs.variant["use_table"] == 1
        with listen(b) as listener, ExitStack() as held:
            for _ in range(OPEN_AT_ONCE):
                client = held.enter_context(connect(a, SIDE_B.ipv4, SERVER))
                held.enter_context(listener.accept()[0])
                linger_zero(client)
                ports.append(client.getsockname()[1])
        assert recorder._programs.counters()[Counter.LOST_STATE] == 0
        rows = rows_of(recorder, tmp_path / "full.tct")
    finally:
        recorder.close()
    ends = [(row["role"], row["close_reason"], row["left_censored"]) for row in rows]
    assert len({row["connection_id"] for row in rows}) == len(rows) == 2 * OPEN_AT_ONCE
    assert {row["local_port"] for row in rows if row["role"] == "active"} == set(ports)
    assert {row["remote_port"] for row in rows if row["role"] == "passive"} == set(ports)
    assert ends.count(("active", "reset_sent", False)) == OPEN_AT_ONCE, ends
    assert ends.count(("passive", "reset_received", False)) == OPEN_AT_ONCE, ends
    assert all(row["established_ns"] > 0 for row in rows)


def test_a_socket_at_the_address_of_one_that_was_not_seen_to_go_is_its_own(
    wired: Wired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the destruction every slot stays taken, and sockets come at the same few addresses again."""
    a, b = wired
    source = lifecycle_source()
    assert "\ttt_state_drop(sk);\n" in source
    object_ = compile_object(source.replace("\ttt_state_drop(sk);\n", ""), tmp_path)
    monkeypatch.setattr(resources, "bpf_object", lambda name: object_)
    recorder = record_in(wired, tmp_path / "stale.tct")
    ports = []
    try:
        recorder.start()
        with listen(b) as listener:
            for _ in range(ROUNDS):
                client = connect(a, SIDE_B.ipv4, SERVER)
                server = listener.accept()[0]
                ports.append(client.getsockname()[1])
                linger_zero(client)
                client.close()
                server.close()
                recorder.poll()
        rows = rows_of(recorder, tmp_path / "stale.tct")
    finally:
        recorder.close()
    assert len({row["connection_id"] for row in rows}) == len(rows) == 2 * ROUNDS
    assert len({row["cookie"] for row in rows}) == 2 * ROUNDS
    active = [row for row in rows if row["role"] == "active"]
    passive = [row for row in rows if row["role"] == "passive"]
    assert sorted(row["local_port"] for row in active) == sorted(ports)
    assert sorted(row["remote_port"] for row in passive) == sorted(ports)
    assert {row["close_reason"] for row in active} == {"reset_sent"}
    assert {row["close_reason"] for row in passive} == {"reset_received"}


def test_a_connection_that_outlives_the_one_that_took_its_place_in_the_journal_is_not_lost(
    wired: Wired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen places: each is taken over and left again many times while two ends stay open."""
    a, b = wired
    object_ = compile_object(lifecycle_source(), tmp_path, "-DTT_JOURNAL_SLOTS=16")
    monkeypatch.setattr(resources, "bpf_object", lambda name: object_)
    recorder = record_in(wired, tmp_path / "journal.tct")
    try:
        recorder.start()
        with listen(b) as listener, connect(a, SIDE_B.ipv4) as old, listener.accept()[0] as peer:
            for _ in range(40):
                client = connect(a, SIDE_B.ipv4, SERVER)
                server = listener.accept()[0]
                linger_zero(client)
                client.close()
                server.close()
            linger_zero(old)
            old.close()
            peer.close()
        assert recorder._programs.counters()[Counter.COUNT_DISPLACED] == 2
        rows = rows_of(recorder, tmp_path / "journal.tct")
    finally:
        recorder.close()
    assert len(rows) == 2 * 41
    assert {row["close_reason"] for row in rows} == {"reset_sent", "reset_received"}


def without(text: str, tracepoint: str) -> str:
    """The source with a tracepoint's program doing nothing, as when the kernel skips it."""
    begin = f"TT_TRACEPOINT({tracepoint})\n{{\n"
    assert begin in text
    return text.replace(begin, begin + "\tif (TT_ARG(0, void *))\n\t\treturn 0;\n")


def test_a_reset_end_whose_reset_was_skipped_is_not_a_row_of_zeroes(
    wired: Wired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is wiped before its destruction: the row is a sighting with the tuple, and one loss."""
    a, b = wired
    object_ = compile_object(without(lifecycle_source(), "tcp_send_reset"), tmp_path)
    monkeypatch.setattr(resources, "bpf_object", lambda name: object_)
    recorder = record_in(wired, tmp_path / "wiped.tct")
    try:
        recorder.start()
        with listen(b) as listener:
            client = connect(a, SIDE_B.ipv4, SERVER)
            server = listener.accept()[0]
        port = client.getsockname()[1]
        client.sendall(b"data")
        assert server.recv(4) == b"data"
        linger_zero(client)
        client.close()
        server.close()
        assert recorder.stop() == {"end": 1}
        done = run("connections", str(tmp_path / "wiped.tct"), "--format", "ndjson")
    finally:
        recorder.close()
    left, right = sorted(map(json.loads, done.stdout.splitlines()), key=lambda row: str(row["role"]))
    assert (left["role"], left["local_port"], left["remote_port"]) == ("active", port, SERVER)
    assert left["close_reason"] is left["bytes_sent"] is left["mss"] is left["rcv_isn"] is None
    assert (right["close_reason"], right["bytes_received"]) == ("reset_received", 4)


def test_an_open_connection_of_which_every_event_was_skipped_has_a_row(
    wired: Wired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at once, before a walk came by."""
    a, b = wired
    object_ = compile_object(without(lifecycle_source(), "inet_sock_set_state"), tmp_path)
    monkeypatch.setattr(resources, "bpf_object", lambda name: object_)
    recorder = record_in(wired, tmp_path / "hidden.tct")
    try:
        recorder.start()
        with listen(b) as listener, connect(a, SIDE_B.ipv4, SERVER), listener.accept()[0]:
            assert recorder.stop() == {"transition": 2}
        done = run("connections", str(tmp_path / "hidden.tct"), "--format", "ndjson")
    finally:
        recorder.close()
    rows = list(map(json.loads, done.stdout.splitlines()))
    assert [(row["role"], row["close_reason"], row["left_censored"]) for row in rows] == [
        ("unknown", "open", False)
    ] * 2


def test_every_variant_is_tried_before_giving_up() -> None:
    assert [variant["use_table"] for variant in loader._VARIANTS] == [1, 0, 0, 0, 0]
