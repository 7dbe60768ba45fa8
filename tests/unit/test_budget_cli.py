"""tcptrace budget, as users run it, on traces made for it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from test_cli import ESCAPE, on_a_terminal, one_line, tcptrace
from test_connections import AFTER, address, conn

from tcptrace.analysis.stages import STAGES
from tcptrace.trace import wire
from tcptrace.trace.wire import Kind, Side

MS = 10**6
BUDGET = {"options": {"mode": "budget"}}
HOLDS = ("nagle", "cork", "cwnd", "rwnd", "pacing", "sndbuf")


def exchange(connection_id: int = 1, seq: int = 0, **fields: Any) -> np.ndarray:
    """A client's exchange over 2 ms of wire; what is named besides, and 12 us that nothing explains."""
    made = np.zeros(1, wire.EXCHANGE)
    usual: dict[str, Any] = {
        "kind": Kind.EXCHANGE,
        "side": Side.CLIENT,
        "connection_id": connection_id,
        "seq": seq,
        "started_ns": AFTER + (seq + 1) * 10 * MS,
        "kernel_tx_ns": 20_000,
        "wire_ns": 2 * MS,
        "kernel_rx_ns": 10_000,
        "wakeup_ns": 30_000,
        "residence_ns": -1,
        "release_ns": -1,
        "request_bytes": 100,
        "response_bytes": 60,
        "writes": 2,
        "reads": 1,
        "summed": 1,
    }
    for name, value in (usual | fields).items():
        made[name] = value
    stages = [name for name in made.dtype.names or () if name in {*STAGES, "wire_ns"}]
    if "total_ns" not in fields:
        made["total_ns"] = sum(max(0, int(made[name][0])) for name in stages) + 12_000
    return made


def end(connection_id: int = 1, **fields: Any) -> np.ndarray:
    """The order system's connection: a round trip of 1.3 ms."""
    usual = {
        "remote_addr": address("10.0.0.2"),
        "remote_port": 5000,
        "pid": 4711,
        "comm": b"order-gw",
        "handshake_ns": 1_300_000,
        "exchanges": 10,
        "pipelined": 0,
        "bytes_sent": 1000,
        "bytes_received": 600,
        "established_ns": 10**9,
    }
    return conn(connection_id, **usual | fields)


def write(path: Path, ends: list[np.ndarray], turns: list[np.ndarray], **kwargs: Any) -> Path:
    changes = {"header_changes": BUDGET} | kwargs
    exchanges = np.concatenate(turns) if turns else None
    return synthetic.write_trace(path, np.concatenate(ends), None, exchanges, **changes)


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 exchanges on two connections, each held by Nagle for 41.2 ms."""
    turns = [exchange(1 + seq % 2, seq // 2, nagle_ns=41_200_000, release_ns=42_500_000) for seq in range(20)]
    return write(tmp_path_factory.mktemp("orders") / "orders.tct", [end(1), end(2)], turns)


def asked(*args: object) -> dict[str, Any]:
    done = tcptrace("budget", "--json", *args)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_budget_of_a_group_is_a_table_of_its_stages(orders: Path) -> None:
    done = tcptrace("budget", orders)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Client side: 20 exchanges on 2 connections" in done.stdout
    assert re.search(r"10\.0\.0\.2:5000\n +mean +share +near p50 +near p90 +slowest\n", done.stdout)
    assert re.search(r"^ +exchanges +20 +3 +3 +1$", done.stdout, re.MULTILINE)
    assert re.search(r"^ +Nagle +41\.2 ms +95\.2 % +41\.2 ms", done.stdout, re.MULTILINE)
    assert re.search(r"^ +network +~1\.30 ms +3\.00 %", done.stdout, re.MULTILINE)
    assert re.search(r"^ +unattributed +12\.0 µs", done.stdout, re.MULTILINE)
    assert "~ estimated: network and other end told apart by the least round trip, in 100 %" in done.stdout
    assert "send buffer" not in done.stdout  # it took no time


def test_what_would_help_is_one_line_to_search_for(orders: Path) -> None:
    done = tcptrace("budget", orders, "--target", "1ms")
    wanted = "Nagle held 41.2 ms per exchange on 10.0.0.2:5000, owner order-gw: set TCP_NODELAY, or write the"
    assert wanted in done.stdout
    assert "saves 41.2 ms of 43.4 ms, and alone does not reach the target" in done.stdout
    assert "delayed its ACK in 100 %" in done.stdout


def test_the_3_2_ms_question_is_answered_from_a_distance(orders: Path) -> None:
    done = tcptrace("budget", orders, "--distance", "80km", "--target", "3ms")
    out = done.stdout
    assert (
        "Floor: 80 km there and back takes light 783 µs in fibre (4.9 µs/km each way), 534 µs in vac" in out
    )
    names = re.findall(r"^  (\w[\w, -]*?) {2,}~?[\d.]+ [µm]s +[\d.]+ %", out, re.MULTILINE)
    assert names == [
        *("floor", "Nagle", "other end", "route excess", "connection set-up", "scheduler"),
        *("kernel, sending", "unattributed", "kernel, receiving", "measured"),
    ]
    assert re.search(r"^ +measured +43\.4 ms +100 %", out, re.MULTILINE)
    assert re.search(r"^ +43\.3 ms +without connection set-up", out, re.MULTILINE)
    assert re.search(r"^ +target +3\.00 ms +40\.4 ms to save", out, re.MULTILINE)
    assert "and alone reaches the target" in out
    assert "the network took ~517 µs per exchange more than the floor on 10.0.0.2:5000" in out


def test_the_same_as_json_adds_up(orders: Path) -> None:
    found = asked(orders, "--physical-rtt", "0.5ms", "--target", "3ms")
    (group,) = found["budget"]
    assert group["remote_addr"] == "10.0.0.2" and group["remote_port"] == 5000
    assert (group["exchanges"], group["rows"], group["sampling"], group["connections"]) == (20, 20, 1.0, 2)
    for at in ("mean", "p50", "p90", "max"):
        budget = group[at]
        assert sum(budget[stage] for stage in STAGES) + budget["unattributed_ns"] == budget["total_ns"]
        assert sum(budget["groups"].values()) == budget["total_ns"]
    assert group["p99"] is None
    assert (group["mean"]["network_exact"], group["mean"]["network_estimated"]) == (0, 20)
    assert group["mean"]["delayed_ack"] == 20
    gap = group["gap"]
    assert gap == found["whole"][0]["gap"] | {"remote_addr": "10.0.0.2", "remote_port": 5000}
    assert sum(step["ns"] for step in gap["steps"]) == gap["measured_ns"]
    steps = {step["step"]: (step["ns"], step["estimated"]) for step in gap["steps"]}
    assert steps["floor_ns"] == (500_000, False)
    assert steps["route_excess_ns"] == (800_000, True)
    assert steps["setup_ns"] == (130_000, False)
    assert gap["measured_ns"] == group["mean"]["total_ns"] + 130_000
    assert gap["over_target_ns"] == gap["measured_ns"] - 3 * MS
    first = found["changes"][0]
    assert (first["cause"], first["saving_ns"], first["reaches_target"]) == ("nagle_ns", 41_200_000, True)
    assert found["exchanges"]["client"]["p50_ns"] == 43_272_000
    assert found["streams"] == []


def test_means_are_over_all_exchanges_and_percentiles_over_those_with_a_row(tmp_path: Path) -> None:
    turns = [exchange(1, seq) for seq in range(10)]
    many = exchange(1, 10, kind=Kind.EXCHANGES, summed=30, nagle_ns=600 * MS, wire_ns=60 * MS)
    trace = write(tmp_path / "t.tct", [end()], [*turns, many])
    found = asked(trace)
    assert found["exchanges"]["sampling"] == 0.25
    (group,) = found["budget"]
    assert (group["mean"]["n"], group["mean"]["nagle_ns"], group["p50"]["nagle_ns"]) == (40, 15 * MS, 0)
    done = tcptrace("budget", trace)
    assert "10 of them (25.0 %) have a row each: percentiles are of these, means of all" in done.stdout


def test_a_stage_that_no_hook_saw_is_named_and_not_nought(tmp_path: Path) -> None:
    turns = [exchange(1, seq, wakeup_ns=-1, app_late_ns=-1) for seq in range(3)]
    turns.append(exchange(1, 3, wakeup_ns=-1, app_late_ns=-1, kernel_tx_ns=-1))
    trace = write(tmp_path / "t.tct", [end()], turns)
    mean = asked(trace)["budget"][0]["mean"]
    assert mean["wakeup_ns"] is None and mean["groups"]["scheduler"] is None
    assert mean["missing"] == {"kernel_tx_ns": 1}
    out = tcptrace("budget", trace).stdout
    assert "not observed, so unattributed: scheduler, late read" in out
    assert "not observed in some exchanges, so unattributed there: kernel, sending in 1" in out


def test_each_side_has_its_own_budget(tmp_path: Path) -> None:
    serving = {"role": 2, "local_port": 5000, "remote_port": 40001, "comm": b"order-db"}
    answered = exchange(2, side=Side.SERVER, app_ns=5 * MS, wire_ns=0)
    trace = write(tmp_path / "t.tct", [end(), end(2, **serving)], [exchange(), answered])
    out = tcptrace("budget", trace).stdout
    assert out.index("Client side: 1 exchange on 1 connection") < out.index("Server side: 1 exchange on 1")
    assert [group["side"] for group in asked(trace)["budget"]] == ["client", "server"]
    assert [group["side"] for group in asked(trace, "--side", "server")["budget"]] == ["server"]
    assert [group["side"] for group in asked(trace, "--distance", "8km")["budget"]] == ["client"]
    assert [group["side"] for group in asked(trace, "--target", "1ms")["budget"]] == ["client"]
    assert "profile order-db" in out
    server = asked(trace, "--side", "server")["budget"][0]["mean"]
    assert server["network_ns"] is None and server["missing"] == {}


def test_a_question_about_the_network_needs_the_clients_end(tmp_path: Path) -> None:
    serving = end(2, role=2, local_port=5000, remote_port=40001)
    trace = write(tmp_path / "t.tct", [serving], [exchange(2, side=Side.SERVER, app_ns=MS, wire_ns=0)])
    one_line(tcptrace("budget", trace, "--distance", "8km"), 1, "1 exchange", "record at the client, too")
    one_line(tcptrace("budget", trace, "--side", "client"), 1, "none from the client's", "--side server")
    found = asked(trace, "--target", "1ms")
    assert found["whole"][0]["gap"]["over_target_ns"] == 32_000 + 40_000 - 60_000 + 60_000


def test_several_groups_have_an_overview(tmp_path: Path) -> None:
    ends = [end(number, remote_addr=address(f"10.0.1.{number}")) for number in range(1, 7)]
    turns = [exchange(number, seq, app_ns=number * MS) for number in range(1, 7) for seq in range(2)]
    trace = write(tmp_path / "t.tct", ends, turns)
    out = tcptrace("budget", trace, "--limit", "4").stdout
    assert re.search(r"^ +REMOTE +N +MEAN +KERNEL +NAGLE +NETWORK +REST +P99$", out, re.MULTILINE)
    assert re.findall(r"^ +(10\S+) +2 ", out, re.MULTILINE) == [f"10.0.1.{n}:5000" for n in (6, 5, 4, 3)]
    assert "and 2 more groups: --limit 6 shows all" in out
    assert re.findall(r"^  (10\S+)$", out, re.MULTILINE) == [f"10.0.1.{n}:5000" for n in (6, 5, 4)]
    found = asked(trace, "--limit", "4")
    assert len(found["budget"]) == 4 and found["whole"][0]["group_count"] == 6
    floors = tcptrace("budget", trace, "--physical-rtt", "1ms").stdout
    assert floors.count("from the floor to what was measured, 2 exchanges") == 3


def test_groups_by_several_facts_and_by_time(orders: Path) -> None:
    (group,) = asked(orders, "--by", "process", "--by", "namespace")["budget"]
    assert {name: group[name] for name in ("pid", "comm", "netns")} == {
        "pid": 4711,
        "comm": "order-gw",
        "netns": 7,
    }
    times = asked(orders, "--by", "time", "--bin", "50ms")["budget"]
    assert sum(group["exchanges"] for group in times) == 20 and len(times) >= 2
    assert all(group["to_ns"] - group["from_ns"] == 50 * MS for group in times)
    assert times[0]["gap"] is None
    out = tcptrace("budget", orders, "--by", "time", "--bin", "50ms").stdout
    assert re.search(r"^ +TIME +N +MEAN", out, re.MULTILINE)
    assert re.search(r"^ +\d\d:\d\d:\d\d\.\d{3} +\d+ +43\.3 ms", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--physical-rtt", "0.5"], ["'0.5' has no unit", "0.5ms"]),
        (["--physical-rtt", "fast"], ["'fast' is no duration"]),
        (["--distance", "80"], ["'80' has no unit", "80km"]),
        (["--distance", "80 miles"], ["'80 miles' is no distance"]),
        (["--distance", "-1km"], ["'-1km'"]),
        (["--target", "0ms"], ["'0ms' is too short"]),
        (["--distance", "80km", "--physical-rtt", "1ms"], ["--physical-rtt and --distance"]),
        (["--side", "server", "--distance", "1km"], ["--side server"]),
        (["--bin", "1s"], ["--by time"]),
        (["--by", "weather"], ["weather", "remote"]),
        (["--limit", "0"], ["--limit"]),
    ],
)
def test_wrong_values_are_named_in_one_line(orders: Path, args: list[str], parts: list[str]) -> None:
    one_line(tcptrace("budget", orders, *args), 2, *parts)


def test_a_trace_without_a_budget_says_so_and_what_to_type(tmp_path: Path) -> None:
    ends = synthetic.connections(5)
    lifecycle = synthetic.write_trace(tmp_path / "l.tct", ends)
    done = tcptrace("budget", lifecycle)
    one_line(done, 1, "recorded with --mode lifecycle, which times no exchanges", "record -o FILE`")
    assert done.stdout == ""
    one_line(tcptrace("budget", "--json", lifecycle), 1, "--mode lifecycle")


def test_a_trace_of_an_older_version_says_so(tmp_path: Path) -> None:
    first = Path(__file__).parents[1] / "data" / "v1.tct"
    one_line(tcptrace("budget", first), 1, "v1.tct was recorded by tcptrace 0.1.0, which timed no exchanges")


def test_streams_without_turns_show_what_held_them(tmp_path: Path) -> None:
    held = {f"held_{cause}_ns": number * 10**9 for number, cause in enumerate(HOLDS)}
    stream = end(1, exchanges=0, pipelined=3, unread_ns=5 * MS, **held)
    trace = write(tmp_path / "t.tct", [stream, end(2, exchanges=0, pipelined=0)], [])
    done = tcptrace("budget", trace)
    assert done.returncode == 0
    assert "No complete exchange was seen" in done.stdout
    assert "Streams: 2 connection ends whose data did not go in turns" in done.stdout
    causes = " +".join(["SEND BUFFER", "CORK", "CONGESTION WINDOW", "RECEIVE WINDOW", "PACING", "UNREAD"])
    assert re.search(f"REMOTE +ENDS +OPEN +SENT +RECEIVED +{causes}", done.stdout)
    assert re.search(r"10\.0\.0\.2:5000, order-gw +2 +2\.00 s +1\.95 KiB", done.stdout)
    found = asked(trace)
    assert found["budget"] == [] and found["whole"] == [] and found["changes"] == []
    (one,) = found["streams"]
    assert (one["connections"], one["held_cwnd_ns"], one["unread_ns"]) == (2, 2 * 10**9, 5 * MS)
    assert one["comm"] == "order-gw" and one["mixed"] == 0
    floor = tcptrace("budget", trace, "--distance", "80km")
    assert floor.returncode == 0 and "No complete exchange was seen" in floor.stdout


def test_an_empty_trace_has_no_exchange(tmp_path: Path) -> None:
    trace = synthetic.write_trace(tmp_path / "t.tct", header_changes=BUDGET)
    done = tcptrace("budget", trace)
    assert (done.returncode, done.stderr) == (0, "") and "No complete exchange" in done.stdout


def test_figures_of_an_incomplete_trace_are_shown_and_the_code_is_5(tmp_path: Path) -> None:
    trace = write(tmp_path / "t.tct", [end()], [exchange()], losses={"exchange_ring": 4})
    done = tcptrace("budget", trace)
    one_line(done, 5, "exchange_ring 4")
    assert "1 exchange on 1 connection" in done.stdout


def test_what_is_no_trace_is_refused_with_4(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.tct"
    foreign.write_bytes(b"\xd4\xc3\xb2\xa1" + bytes(100))
    one_line(tcptrace("budget", foreign), 4, "foreign.tct is not a trace")


def test_names_of_a_trace_cannot_reach_the_terminal(tmp_path: Path) -> None:
    name = b"\x1b]0;x\x07<b>\n\xe2\x80\xae"
    ends = [end(1, comm=name), end(2, comm=name, exchanges=0, pipelined=1, held_rwnd_ns=5)]
    trace = write(tmp_path / "t.tct", ends, [exchange(nagle_ns=40 * MS), exchange(seq=1, wakeup_ns=30 * MS)])
    for args in ([], ["--by", "process"], ["--by", "program", "--distance", "1km", "--target", "1ms"]):
        out = on_a_terminal("budget", trace, *args)
        assert "\x1b]" not in out and "\u202e" not in out and "\x07" not in out
        assert "\x1b" not in ESCAPE.sub("", out)
        assert "\\x1b" in out
        piped = tcptrace("budget", trace, *args).stdout
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", piped)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\U0010ffff]", tcptrace("budget", "--json", trace).stdout)


@pytest.mark.parametrize("columns", [80, 120])
def test_nothing_of_a_usual_budget_is_wider_than_the_terminal(orders: Path, columns: int) -> None:
    for args in ([], ["--distance", "80km", "--target", "1ms"], ["--by", "time", "--bin", "50ms"]):
        out = ESCAPE.sub("", on_a_terminal("budget", orders, *args, COLUMNS=str(columns)))
        wide = [line for line in out.splitlines() if len(line.rstrip("\r")) > columns]
        assert wide == []


def test_a_terminal_without_blocks_gets_other_bars(orders: Path) -> None:
    done = tcptrace("budget", orders, "--distance", "80km", env={"PYTHONIOENCODING": "ascii"})
    assert "####" in done.stdout and "\\u2588" not in done.stdout


def test_colour_is_for_terminals_that_want_it(orders: Path) -> None:
    assert "38;2;" in on_a_terminal("budget", orders, COLORTERM="truecolor")
    assert "38;" not in on_a_terminal("budget", orders, COLORTERM="truecolor", NO_COLOR="1")
    assert "\x1b" not in tcptrace("budget", orders).stdout


def test_help_imports_nothing_heavy_and_the_command_no_pandas(orders: Path) -> None:
    code = "import sys; from tcptrace.cli import run; run({}); print(*sys.modules, file=sys.stderr)"
    for args, heavy in (
        (["budget", "--help"], {"numpy", "pyarrow", "pandas", "rich"}),
        (["budget", str(orders)], {"pandas", "plotly", "jinja2"}),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(repr(args))],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert not {name.split(".")[0] for name in done.stderr.split()} & heavy


# ---- the budget in a summary ----


def test_a_summary_has_the_budgets_by_remote(orders: Path) -> None:
    done = tcptrace("summary", "--json", orders)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["exchanges"] == {
        "rows": 20,
        "summed": 0,
        "sampling": 1.0,
        "by_side": {"client": 20, "server": 0},
        "client": {
            "n": 20,
            "p50_ns": 43_272_000,
            "p90_ns": 43_272_000,
            "p99_ns": None,
            "max_ns": 43_272_000,
        },
        "server": {"n": 0, **dict.fromkeys(("p50_ns", "p90_ns", "p99_ns", "max_ns"))},
    }
    (group,) = found["budget"]
    (same,) = asked(orders)["budget"]
    assert group == {name: value for name, value in same.items() if name != "gap"}
    out = tcptrace("summary", orders).stdout
    assert re.search(r"^  client side +20 +20 +43\.3 ms +43\.3 ms +– +43\.3 ms$", out, re.MULTILINE)
    assert "Where their time went on average, client side" in out and "server side" not in out
    assert re.search(r"^  10\.0\.0\.2:5000 +20 +43\.3 ms +30\.0 µs +41\.2 ms +~1\.30 ms", out, re.MULTILINE)
    assert "`tcptrace budget` takes them apart" in out


def test_a_summary_of_a_recording_without_a_budget_has_nulls_and_says_why(tmp_path: Path) -> None:
    trace = synthetic.write_trace(tmp_path / "l.tct", synthetic.connections(5))
    found = json.loads(tcptrace("summary", "--json", trace).stdout)
    assert found["budget"] == []
    assert found["exchanges"]["rows"] is None and found["exchanges"]["client"]["n"] is None
    out = tcptrace("summary", trace).stdout
    assert "not timed: the trace was recorded with --mode lifecycle" in out


def test_a_summary_without_a_complete_exchange_says_so(tmp_path: Path) -> None:
    trace = write(tmp_path / "t.tct", [end(1, exchanges=0, pipelined=0)], [])
    assert "none was seen complete" in tcptrace("summary", trace).stdout
    assert json.loads(tcptrace("summary", "--json", trace).stdout)["exchanges"]["rows"] == 0
