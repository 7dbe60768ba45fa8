"""How the parts of a scenario talk: words in order, and one clear line when that fails."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcptrace.errors import TcptraceError
from tcptrace.lab import control
from tcptrace.lab.control import Control

LIMIT = 10.0
GONE = "the other part of the scenario is gone"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def ends() -> Iterator[tuple[Control, Control]]:
    one, other = (Control(connection) for connection in socket.socketpair())
    yield one, other
    one.close()
    other.close()


def heard(lines: bytes, *words: str) -> list[Any]:
    """What is heard, word by word, of a part that sends these bytes and leaves; a failure is its message."""
    ours, theirs = socket.socketpair()
    link = Control(ours)
    theirs.sendall(lines)
    theirs.close()
    found = []
    for word in words:
        try:
            found.append(link.hear(word, LIMIT))
        except TcptraceError as error:
            found.append(str(error))
    link.close()
    return found


def line(word: str, value: Any = None) -> bytes:
    return json.dumps({"word": word, "value": value}).encode() + b"\n"


def test_words_are_heard_in_the_order_in_which_they_were_told(ends: tuple[Control, Control]) -> None:
    one, other = ends
    one.tell("ready")
    one.tell("count", 3)
    other.tell("hello", {"from": "other"})
    assert other.hear("ready", LIMIT) is None
    assert other.hear("count", LIMIT) == 3
    assert one.hear("hello", LIMIT) == {"from": "other"}


@settings(deadline=None)
@given(VALUES)
def test_values_arrive_as_they_are(value: Any) -> None:
    assert heard(line("it", value), "it") == [value]


def test_another_word_is_named(ends: tuple[Control, Control]) -> None:
    one, other = ends
    one.tell("ready")
    with pytest.raises(TcptraceError, match="said 'ready' instead of 'done'"):
        other.hear("done", LIMIT)


def test_silence_has_an_end(ends: tuple[Control, Control]) -> None:
    begin = time.monotonic()
    with pytest.raises(TcptraceError, match=r"did not say 'ready' in 0\.05 s"):
        ends[0].hear("ready", 0.05)
    assert time.monotonic() - begin < LIMIT


def test_a_failure_comes_with_its_own_words_and_is_final() -> None:
    told = heard(line("ready") + line("failed", "the server: no room"), "ready", "done", "done")
    assert told == [None, "the server: no room", "the server: no room"]


def test_who_leaves_is_missed_and_what_was_said_before_counts() -> None:
    assert heard(line("ready", 1), "ready", "done", "done") == [1, GONE, GONE]


def test_nobody_is_told_who_left(ends: tuple[Control, Control]) -> None:
    one, other = ends
    other.close()
    with pytest.raises(TcptraceError, match=GONE):
        one.hear("anything", LIMIT)
    with pytest.raises(TcptraceError, match=GONE):
        while True:  # what the kernel still takes is no proof of a listener
            one.tell("word", "x" * 4096)


def test_leaving_ends_the_own_wait_as_well(ends: tuple[Control, Control]) -> None:
    threading.Timer(0.05, ends[0].close).start()
    with pytest.raises(TcptraceError, match=GONE):
        ends[0].hear("ready", LIMIT)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_words_end_the_conversation(garbage: bytes) -> None:
    assert heard(line("ready", 7) + garbage + b"\n" + line("late"), "ready", "late") == [7, GONE]


@settings(deadline=None)
@given(VALUES)
def test_json_that_is_no_word_ends_the_conversation(said: Any) -> None:
    if not (isinstance(said, dict) and {"word", "value"} <= set(said)):
        assert heard(json.dumps(said).encode() + b"\n" + line("late"), "late") == [GONE]


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xfe", b"{", b"[" * 100_000, b"1" * 5000, b'{"word": "late"}', b'["word", "value"]', b"null"],
    ids=["no UTF-8", "cut", "nested", "a long number", "no value", "a list", "null"],
)
def test_known_garbage_ends_the_conversation(garbage: bytes) -> None:
    assert heard(garbage + b"\n" + line("late"), "late") == [GONE]


def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LONGEST_LINE", 1000)
    assert heard(line("ready") + line("long", "x" * 2000), "ready", "long") == [None, GONE]


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/control"


def test_parts_meet_whoever_comes_first(address: str) -> None:
    met: list[Control] = []
    client = threading.Thread(target=lambda: met.append(control.connect(address, "", LIMIT)))
    client.start()  # nobody listens yet: it tries again
    with control.listen(address) as listener:
        server = control.accept(listener, LIMIT)
    client.join()
    server.tell("ready")
    assert met[0].hear("ready", LIMIT) is None
    server.close()
    met[0].close()


def test_no_client_within_the_time(address: str) -> None:
    with (
        control.listen(address) as listener,
        pytest.raises(TcptraceError, match=r"no client came within 0\.05 s"),
    ):
        control.accept(listener, 0.05)


def test_no_server_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(TcptraceError, match="lab run NAME --role server"):
        control.connect(f"unix:{tmp_path}/nothing", "192.0.2.1", 0.05)


def test_a_place_that_is_taken_is_named(address: str) -> None:
    with control.listen(address), pytest.raises(TcptraceError, match=r"cannot listen at unix:.*/control: "):
        control.listen(address)
