"""`show` as users run it: time lines that fit a terminal, IDs that do not exist, names that attack."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from rich.cells import cell_len
from test_cli import ESCAPE, EVIL, on_a_terminal, one_line, tcptrace
from test_connections import AFTER, conn, event, record

from tcptrace.analysis.stages import STAGES, UNATTRIBUTED
from tcptrace.trace import wire
from tcptrace.trace.wire import ExchangeFlag, Kind, Role, Side

MS = 10**6
RAW = tuple(name for name in STAGES if name not in ("network_ns", "peer_ns"))


def raw(connection_id: int, seq: int, side: Side, at_ms: float, total_ns: int, **fields: Any) -> np.ndarray:
    """A raw exchange at a moment of the recording: stages are 0 unless named."""
    made = np.zeros(1, wire.EXCHANGE)
    usual = {
        "kind": Kind.EXCHANGE,
        "side": side,
        "seq": seq,
        "connection_id": connection_id,
        "started_ns": AFTER + int(at_ms * MS),
        "total_ns": total_ns,
        "residence_ns": -1,
        "release_ns": -1,
        "request_bytes": 100,
        "response_bytes": 50,
        "writes": 2,
        "reads": 1,
        "summed": 1,
        "request_end": 1000 * seq,
    }
    for name, value in (usual | fields).items():
        made[name] = value
    return made


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """show.tct: connection 17 with three exchanges, one of them held by Nagle, and connection 18 without any;
    lost.tct: the same, incomplete; long.tct: connection 1 with 500 exchanges."""
    directory = tmp_path_factory.mktemp("traces")
    ends = np.concatenate(
        [
            conn(17, pid=1234, comm=b"order-gw", exchanges=3, pipelined=0, bytes_sent=9, bytes_received=9),
            conn(18, role=Role.PASSIVE, exchanges=0, pipelined=0, bytes_sent=0, bytes_received=0),
        ]
    )
    lost = {"loss_recovery_ns": 200 * MS, "wire_ns": 2 * MS, "retransmits": 1, "flags": ExchangeFlag.RTO}
    turns = np.concatenate(
        [
            raw(17, 0, Side.CLIENT, 10, 3 * MS, kernel_tx_ns=MS // 2, wire_ns=2 * MS, wakeup_ns=-1),
            raw(17, 1, Side.CLIENT, 20, 44 * MS, nagle_ns=41 * MS, wire_ns=2 * MS, transfer_ns=MS // 2),
            raw(17, 2, Side.CLIENT, 90, 250 * MS, **lost),
        ]
    )
    again = event(
        Kind.RETRANSMIT,
        connection_id=17,
        state=1,
        ca_state=4,
        pending=0,
        length_bytes=100,
        time_ns=AFTER + 290 * MS,
    )
    synthetic.write_trace(directory / "show.tct", ends, again, turns)
    synthetic.write_trace(directory / "lost.tct", ends, again, turns, losses={"exchange_ring": 3})
    long = [raw(1, seq, Side.CLIENT, seq, MS // 2 + seq, wire_ns=MS // 4) for seq in range(500)]
    synthetic.write_trace(
        directory / "long.tct",
        conn(1, exchanges=600, pipelined=0, bytes_sent=9, bytes_received=9),
        None,
        np.concatenate(long),
    )
    return directory


def lines_of(*args: object, **kwargs: Any) -> list[str]:
    done = tcptrace("show", *args, **kwargs)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_connection_is_told_in_order_of_time(traces: Path) -> None:
    lines = lines_of(traces / "show.tct", 17)
    assert lines[0] == "Connection 17: 192.0.2.1:40000 to 192.0.2.2:443, order-gw (1234)"
    text = "\n".join(lines)
    order = (
        *("handshake", "before the first exchange", "17.0 client", "idle: this end had nothing to send"),
        *("17.1 client", "17.2 client", "data sent again, 100 B (RTO)", "closed in order, this end first"),
        *("ESTABLISHED", "N Nagle"),
    )
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert re.search(r"20\.0 ms +44\.0 ms  17\.1 client +N+$", text, re.MULTILINE)
    assert re.search(r"17\.2 client +\S*L{20,}", text)


def test_an_exchange_has_a_row_for_each_stage_that_took_time(traces: Path) -> None:
    lines = lines_of(traces / "show.tct", "17.1")
    assert lines[0].startswith("Exchange 17.1, client: 192.0.2.1:40000 to 192.0.2.2:443, order-gw (1234)")
    text = "\n".join(lines)
    nagle = next(line for line in lines if line.startswith("  Nagle "))
    assert re.search(r"0 ns +41\.0 ms +93\.2 %  █{20,}$", nagle)
    network = next(line for line in lines if line.startswith("  network "))
    assert re.search(r"41\.0 ms +~500 ns +< 0\.01 %|41\.0 ms +~", network)
    assert "no time: application, send buffer, cork" in text
    assert re.search(r"^  unattributed .* ░?", lines[[line[:6] for line in lines].index("  unat")])
    assert "drawn last" in text and "~ estimated" in text


def test_what_is_not_known_is_said_with_the_reason(traces: Path) -> None:
    text = " ".join(" ".join(lines_of(traces / "show.tct", "17.0")).split())
    assert "not known: scheduler (one of the moments between which it lies was not seen)" in text
    assert "no time:" in text and "scheduler, late read" not in text


def test_an_exchange_with_a_loss_tells_what_was_sent_again_and_when(traces: Path) -> None:
    text = "\n".join(lines_of(traces / "show.tct", "17.2"))
    assert "1 segment sent again (rto)" in text
    assert re.search(r"200 ms: data sent again, 100 B \(RTO\)", text)


def test_a_connection_without_exchanges_has_its_life(traces: Path) -> None:
    text = "\n".join(lines_of(traces / "show.tct", 18))
    assert "no exchanges" in text and "ESTABLISHED" in text and "handshake" in text


def test_of_a_long_connection_it_says_how_many_are_left_out(traces: Path) -> None:
    lines = lines_of(traces / "long.tct", 1)
    assert "600 exchanges; 24 of them shown" in lines[1] and len(lines) < 80
    text = " ".join(" ".join(lines).split())
    assert "100 without a record of their own" in text
    left = [int(number) for number in re.findall(r"(\d+) exchanges? left out", text)]
    assert sum(left) == 500 - 24
    assert "100 exchanges without a record of their own" in text


def test_json_has_every_bar_and_adds_up(traces: Path) -> None:
    done = tcptrace("show", "--json", traces / "show.tct", "17.1")
    shown = json.loads(done.stdout)
    own = shown["own"]
    assert (own["connection_id"], own["seq"], shown["other"]) == (17, 1, None)
    spans = [span["duration_ns"] for bar in own["bars"] for span in bar["spans"]]
    assert sum(spans) == own["total_ns"] == 44 * MS
    assert own["bars"][-1]["stage"] == UNATTRIBUTED
    connection = json.loads(tcptrace("show", "--json", traces / "show.tct", 17).stdout)
    kinds = [entry["kind"] for entry in connection["entries"]]
    assert kinds[0] == "handshake" and kinds[-1] == "end" and kinds.count("passage") == 3
    assert connection["connection"]["comm"] == "order-gw"


@pytest.mark.parametrize(
    ("identity", "code", "parts"),
    [
        ("99", 1, ("no connection 99", "its 2 connections have ids from 17 to 18")),
        ("99.1", 1, ("no connection 99",)),
        ("17.3", 1, ("no exchange 17.3", "its 3 exchanges have seq from 0 to 2")),
        ("18.0", 1, ("no exchange 18.0", "it has none")),
        ("seventeen", 2, ("'seventeen'", "as in 17.3")),
        ("17.", 2, ("'17.'",)),
        ("", 2, ("''",)),
        ("1\x1b[2J", 2, ("\\x1b[2J",)),
        ("9" * 20, 2, ("9" * 20,)),
    ],
)
def test_an_id_that_does_not_exist_is_one_line(
    traces: Path, identity: str, code: int, parts: tuple[str, ...]
) -> None:
    done = tcptrace("show", traces / "show.tct", identity)
    one_line(done, code, *parts)
    assert not done.stdout


def test_turns_without_a_record_are_not_denied(traces: Path) -> None:
    one_line(
        tcptrace("show", traces / "long.tct", "1.555"),
        1,
        "500 of its 600 exchanges have a record of their own, with seq from 0 to 499",
    )


def test_an_incomplete_trace_is_shown_and_said_with_5(traces: Path) -> None:
    for identity in ("17", "17.1"):
        done = tcptrace("show", traces / "lost.tct", identity)
        one_line(done, 5, "exchange_ring 3")
        assert done.stdout
    one_line(tcptrace("show", traces / "lost.tct", "99"), 1, "the trace is not complete")


@pytest.mark.parametrize("columns", [80, 66, 132])
@pytest.mark.parametrize(("name", "identity"), [("show", "17"), ("show", "17.1"), ("long", "1")])
def test_lines_fit_the_terminal(traces: Path, columns: int, name: str, identity: str) -> None:
    lines = lines_of(traces / f"{name}.tct", identity, env={"COLUMNS": str(columns)})
    assert max(map(cell_len, lines)) <= columns


def test_colour_adds_nothing_that_is_not_said_without(traces: Path) -> None:
    for identity in ("17", "17.1"):
        plain = tcptrace("show", traces / "show.tct", identity).stdout
        coloured = on_a_terminal("show", traces / "show.tct", identity)
        bare = on_a_terminal("show", traces / "show.tct", identity, NO_COLOR="1")
        assert (
            "\x1b[38;" in coloured or "\x1b[48;" in coloured or re.search(r"\x1b\[[0-9;]*[34][0-9]", coloured)
        )
        assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", bare)
        for shown in (coloured, bare):
            assert ESCAPE.sub("", shown).replace("\r\n", "\n") == plain


def test_a_terminal_without_block_characters_gets_others(traces: Path) -> None:
    done = tcptrace("show", traces / "show.tct", "17.1", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout.isascii()
    assert "####" in done.stdout and "\\u25" not in done.stdout


def test_no_name_of_the_recorded_host_reaches_the_terminal(tmp_path: Path) -> None:
    evil = {
        "hooks": [{"fact": "waiting for a CPU", "provider": None, "exact": False, "reason": EVIL}],
        "drop_reasons": {"3": EVIL},
    }
    ends = conn(17, pid=1, comm=b"\x1b[2J\x1b[31mred", exchanges=1, pipelined=0)
    path = synthetic.write_trace(
        tmp_path / "x\x1b[2J\ny.tct",
        ends,
        event(Kind.DROP, reason=3, time_ns=AFTER + 15 * MS),
        raw(17, 0, Side.CLIENT, 10, 9 * MS, wakeup_ns=-1, wire_ns=MS),
        header_changes=evil,
        losses={EVIL: 1},
    )
    for args in (["17"], ["17.0"], ["--json", "17"], ["--json", "17.0"], ["99"], ["17.9"]):
        done = tcptrace("show", *args[:-1], path, args[-1])
        assert done.returncode in (1, 5) and done.stderr.count("\n") == 1
        for stream in (done.stdout, done.stderr):
            assert all(line.isprintable() for line in stream.split("\n")), args
            assert "\u202e" not in stream
    assert "<script>" in tcptrace("show", path, "17").stdout
    coloured = ESCAPE.sub("", on_a_terminal("show", path, "17.0"))
    assert all(line.isprintable() for line in coloured.replace("\r\n", "\n").split("\n"))


def test_the_other_end_follows_on_the_same_axis(tmp_path: Path) -> None:
    """Both ends of one connection on one host."""
    here, there = ({"netns": 7, "exchanges": 1, "pipelined": 0} for _ in range(2))
    isn = {"snd_isn": 100, "rcv_isn": 200}, {"snd_isn": 200, "rcv_isn": 100}
    swapped = {
        "role": Role.PASSIVE,
        "local_port": 443,
        "remote_port": 40000,
        "local_addr": record(wire.CONNECTION)["remote_addr"],
        "remote_addr": record(wire.CONNECTION)["local_addr"],
    }
    ends = np.concatenate([conn(17, **here, **isn[0]), conn(18, **there, **isn[1], **swapped)])
    turns = np.concatenate(
        [
            raw(18, 0, Side.SERVER, 12, 5 * MS, app_ns=5 * MS, residence_ns=5 * MS),
            raw(17, 0, Side.CLIENT, 10, 10 * MS, wire_ns=9 * MS, kernel_tx_ns=MS),
        ]
    )
    path = synthetic.write_trace(tmp_path / "both.tct", ends, None, turns)
    lines = lines_of(path, "17.0")
    text = "\n".join(lines)
    if "Its other end" not in text:
        pytest.skip("the two ends were not joined")
    assert "Its other end: 18.0, server: 192.0.2.2:443 from 192.0.2.1:40000" in text
    assert "began 2.00 ms later" in text and "~" not in text
    peer = next(line for line in lines if line.startswith("  other end "))
    server = [line for line in lines if line.startswith("  application ")][-1]
    assert abs(peer.index("█") - server.index("█")) <= 1 and peer.count("█") == pytest.approx(
        server.count("█"), abs=1
    )
    back = "\n".join(lines_of(path, "18.0"))
    assert "Its other end: 17.0, client" in back and "began 2.00 ms earlier" in back


def test_the_help_is_complete_and_light() -> None:
    done = tcptrace("show", "--help")
    assert done.returncode == 0 and "Exit codes:" in done.stdout and "Examples:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    code = "import sys; from tcptrace.cli import run; run(['show', '--help']); print(*sys.modules, sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {name.split(".")[0] for name in loaded.stdout.split()} & {"numpy", "pyarrow", "rich", "jinja2"}


def test_the_help_names_every_key_of_the_json(traces: Path) -> None:
    words = set(re.findall(r"\w+", tcptrace("show", "--help").stdout))
    for identity in ("17", "17.1"):
        shown = json.loads(tcptrace("show", "--json", traces / "show.tct", identity).stdout)
        assert set(shown) - {"tcptrace"} <= words


@pytest.mark.parametrize("identity", ["17", "17.1"])
def test_it_needs_neither_pandas_nor_what_only_pages_need(traces: Path, identity: str) -> None:
    command = ["show", str(traces / "show.tct"), identity]
    code = (
        f"import sys; from tcptrace.cli import run; run({command!r}); "
        "assert not {'pandas', 'jinja2', 'plotly'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True, timeout=60)


def test_a_reader_that_leaves_is_no_error_and_a_full_disk_is_one_line(traces: Path) -> None:
    command = [sys.executable, "-m", "tcptrace", "show", str(traces / "long.tct"), "1"]
    read, write = os.pipe()
    os.close(read)
    left = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (left.returncode, left.stderr) == (0, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    one_line(done, 1, "No space left on device")
