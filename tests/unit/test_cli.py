"""The real command, as users run it: exit codes, messages, output that no name of a trace can take over."""

import csv
import io
import json
import os
import pty
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import synthetic
from pyarrow import parquet
from test_connections import conn, event

from tcptrace import __version__, cli
from tcptrace.analysis.schema import CONNECTIONS
from tcptrace.errors import HostError, TcptraceError
from tcptrace.trace.wire import Kind

TCPTRACE = [sys.executable, "-m", "tcptrace"]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
EVIL = "<script>\x1b]0;owned\x07\x1b[2J\n\u202ekcatta"


def tcptrace(
    *args: object, env: dict[str, str] | None = None, **kwargs: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TCPTRACE, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | (env or {}),
        **kwargs,
    )


def one_line(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("tcptrace: "), done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with good.tct, lost.tct, cut.tct, damaged.tct and what is no trace."""
    directory = tmp_path_factory.mktemp("traces")
    records = synthetic.connections(300)
    events = synthetic.events(40, of=records)
    synthetic.write_trace(directory / "good.tct", records, events)
    synthetic.write_trace(directory / "lost.tct", records, losses={"connection_ring": 5, "recursion.walk": 2})
    synthetic.write_trace(directory / "cut.tct", records, clean=False)
    damaged = synthetic.write_trace(directory / "damaged.tct", records, batch_rows=100)
    data = bytearray(damaged.read_bytes())
    data[len(data) * 3 // 5] ^= 1
    damaged.write_bytes(data)
    (directory / "empty.tct").touch()
    (directory / "foreign.tct").write_bytes(b"\xd4\xc3\xb2\xa1" + bytes(100))
    synthetic.write_trace(directory / "newer.tct", records, header_changes={"format_version": 99})
    return directory


# ---- the frame ----


def test_version_and_help() -> None:
    assert tcptrace("--version").stdout == f"tcptrace {__version__}\n"
    done = tcptrace("--help")
    assert done.returncode == 0 and not done.stderr
    for name in cli.COMMANDS:
        assert re.search(rf"^  {name} +\w", done.stdout, re.MULTILINE)
    assert "Exit codes:" in done.stdout


def test_only_what_is_due_exists() -> None:
    recording, reading = "doctor record", "info summary connections exchanges budget show report"
    assert list(cli.COMMANDS) == f"{recording} {reading} lab".split()


def test_the_installed_command_is_the_same() -> None:
    script = Path(sys.executable).with_name("tcptrace")
    if not script.exists():
        pytest.skip("the package is not installed beside this python")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"tcptrace {__version__}\n"


@pytest.mark.parametrize(
    "args", [["--help"], ["info", "--help"], ["summary", "--help"], ["connections", "--help"]]
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = f"import sys; from tcptrace.cli import run; run({args!r}); print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()}
    assert not loaded & {"numpy", "pyarrow", "pandas", "rich", "plotly", "jinja2"}


@pytest.mark.parametrize("args", [["info"], ["summary"], ["connections"], ["connections", "--format", "csv"]])
def test_reading_a_trace_does_not_wait_for_pandas(traces: Path, args: list[str]) -> None:
    command = [*args, str(traces / "good.tct")]
    code = f"import sys; from tcptrace.cli import run; run({command!r}); assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True, timeout=60)


def test_help_is_quick() -> None:
    def took() -> tuple[float, float]:
        start = time.monotonic()
        process = subprocess.Popen([*TCPTRACE, "--help"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return time.monotonic() - start, usage.ru_utime + usage.ru_stime

    walls, cpu = zip(*[took() for _ in range(11)], strict=True)
    assert statistics.median(cpu) < 0.150
    assert min(walls) < 0.150  # what else the machine does can only add


def test_without_a_command_there_is_help_and_2() -> None:
    done = tcptrace()
    assert done.returncode == 2
    assert "Usage: tcptrace" in done.stderr and not done.stdout


@pytest.mark.parametrize("command", ["info", "summary", "connections"])
def test_every_help_has_exit_codes_and_examples(command: str) -> None:
    done = tcptrace(command, "--help")
    assert done.returncode == 0
    assert "Exit codes:" in done.stdout and "Examples:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_the_help_explains_every_column() -> None:
    words = set(re.findall(r"\w+", tcptrace("connections", "--help").stdout))
    assert set(CONNECTIONS.names) <= words


# ---- exit codes ----


@pytest.mark.parametrize(
    "command", [["info"], ["info", "--json"], ["summary"], ["summary", "--json"], ["connections"]]
)
def test_exit_codes_of_reading(traces: Path, command: list[str]) -> None:
    good = tcptrace(*command, traces / "good.tct")
    assert (good.returncode, good.stderr) == (0, "")
    for name, reason in (
        ("lost", "connection_ring 5, recursion.walk 2"),
        ("cut", "truncated"),
        ("damaged", "damaged"),
    ):
        done = tcptrace(*command, traces / f"{name}.tct")
        one_line(done, 5, f"{name}.tct is not complete", reason)
        assert done.stdout
    for name in ("empty", "foreign", "newer"):
        done = tcptrace(*command, traces / f"{name}.tct")
        one_line(done, 4, f"{name}.tct")
        assert not done.stdout
    assert "99" in tcptrace(*command, traces / "newer.tct").stderr


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["nope"], "'nope'"),
        (["--nope"], "--nope"),
        (["info"], "TRACE"),
        (["info", "missing.tct"], "missing.tct"),
        (["info", "/"], "'/'"),
        (["summary", "--jsno", "x"], "--jsno"),
        (["connections", "--format", "xlsx", __file__], "'xlsx'"),
        (["connections", "--format", "parquet", __file__], "-o FILE"),
        (["connections", __file__, "surplus"], "surplus"),
        (["info", "mis\x1b[2J\nsing.tct"], "\\x1b[2J"),
        (["\x1b[2J\n"], "\\x1b[2J"),
    ],
)
def test_wrong_arguments_are_one_line_that_names_them(args: list[str], named: str) -> None:
    one_line(tcptrace(*args), 2, named)


def run_failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    @click.command("info")
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: failing)
    return cli.run(["info"])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TcptraceError("no \x1b[2J luck"), 1, "no \\x1b[2J luck"),
        (HostError("not root"), 3, "not root"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (OSError(13, "Permission denied", "/x\n"), 1, "Permission denied: /x\\x0a"),
        (
            ModuleNotFoundError("No module named 'pandas.core'", name="pandas.core"),
            1,
            "pip install 'tcptrace[report]'",
        ),
    ],
)
def test_errors_become_one_line_and_a_code(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_failing(error, monkeypatch) == code
    said = capsys.readouterr().err
    assert said.startswith("tcptrace: ") and said.count("\n") == 1
    assert message in said


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModuleNotFoundError):
        run_failing(ModuleNotFoundError("No module named 'nmupy'", name="nmupy"), monkeypatch)


# ---- output ----


def test_tables_of_every_format(traces: Path, tmp_path: Path) -> None:
    good = traces / "good.tct"
    lines = list(csv.reader(io.StringIO(tcptrace("connections", good, "--format", "csv").stdout)))
    assert lines[0] == CONNECTIONS.names and len(lines) == 301
    rows = [
        json.loads(line) for line in tcptrace("connections", good, "--format", "ndjson").stdout.splitlines()
    ]
    assert list(rows[0]) == CONNECTIONS.names and len(rows) == 300
    out = tmp_path / "out.parquet"
    done = tcptrace("connections", good, "--format", "parquet", "-o", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    made = parquet.read_table(out)
    assert made.schema.equals(CONNECTIONS)
    assert made.to_pylist() == rows
    text = tcptrace("connections", good).stdout.splitlines()
    assert len(text) == 301 and text[0].split()[0] == "ID"


def test_output_files_are_private_and_not_overwritten(traces: Path, tmp_path: Path) -> None:
    good, out = traces / "good.tct", tmp_path / "out.csv"
    args = ["connections", good, "--format", "csv", "-o", out]
    assert tcptrace(*args).returncode == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert out.read_text() == tcptrace("connections", good, "--format", "csv").stdout
    out.write_text("mine")
    one_line(tcptrace(*args), 1, "out.csv exists", "--force")
    assert out.read_text() == "mine"
    assert tcptrace(*args, "--force").returncode == 0
    assert out.read_text() != "mine"


def test_a_trace_with_losses_still_delivers_its_rows(traces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ndjson"
    one_line(
        tcptrace("connections", traces / "lost.tct", "--format", "ndjson", "-o", out), 5, "lost something"
    )
    assert len(out.read_text().splitlines()) == 300


def test_health_comes_first_and_losses_are_plain(traces: Path) -> None:
    for command in ("info", "summary"):
        lines = tcptrace(command, traces / "lost.tct").stdout.splitlines()
        head = "\n".join(lines[:7])
        assert lines[0].startswith("Trace ")
        assert "INCOMPLETE" in head and "lost 5 connection_ring" in head and "lost 2 recursion.walk" in head
        assert "complete: ended cleanly" in tcptrace(command, traces / "good.tct").stdout
        assert "not known" in "\n".join(tcptrace(command, traces / "cut.tct").stdout.splitlines()[:6])


def test_json_is_what_the_interface_says(traces: Path) -> None:
    summary = json.loads(tcptrace("summary", "--json", traces / "lost.tct").stdout)
    assert summary["lost"] == {"total": 7, "connection_ring": 5, "recursion.walk": 2}
    assert summary["connections"]["rows"] == 300
    assert sum(summary["connections"]["by_role"].values()) == 300
    assert summary["trace"] == json.loads(tcptrace("info", "--json", traces / "lost.tct").stdout)


def test_a_trace_without_rows(tmp_path: Path) -> None:
    path = synthetic.write_trace(tmp_path / "none.tct")
    for command in (["info"], ["summary"], ["connections"], ["connections", "--format", "ndjson"]):
        assert tcptrace(*command, path).returncode == 0
    assert len(tcptrace("connections", "--format", "csv", path).stdout.splitlines()) == 1


def test_costs_that_the_kernel_did_not_count_are_not_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = synthetic.write_trace(tmp_path / "idle.tct")  # no connection: its program ran 0 times
    assert cli.run(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"set_state +– +– +– +0$", shown, re.MULTILINE)
    assert "kernel.bpf_stats_enabled was 0" in shown


@pytest.mark.parametrize("value", [None, "x", 7, [], {}, [None, 7], {"a": {"b": None}}])
def test_odd_headers_are_no_traceback(
    tmp_path: Path, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = {"format", "format_version", "wire_version", "trace_id", "started"}
    odd = dict.fromkeys(synthetic.header().keys() - needed, value)
    path = synthetic.write_trace(tmp_path / "odd.tct", conn(), header_changes=odd)
    for args in (["info"], ["summary"], ["summary", "--json"]):
        assert cli.run([*args, str(path)]) == 0
        assert capsys.readouterr().err == ""


# ---- hostile names, terminals, pipes ----


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace in which every name is an attack, also that of the file."""
    comms = [
        b"\x1b[2J\x1b[31mred",
        b"a\nb\r\tc",
        b"<script>",
        b"\xff\xfe\x9b1m",
        "\u202eevil".encode(),
        b"=cmd|x",
    ]
    records = [conn(number + 1, pid=1, comm=comm) for number, comm in enumerate(comms)]
    evil = {
        "hostname": EVIL,
        "command_line": ["tcptrace", EVIL],
        "kernel": {"release": EVIL, "version": EVIL, "machine": EVIL},
        "options": {"mode": EVIL, "filters": {EVIL: [EVIL]}, "buffer_bytes": EVIL, "duration_s": EVIL},
        "hooks": [{"fact": EVIL, "provider": EVIL, "exact": EVIL, "reason": EVIL}],
        "sysctls": {EVIL: EVIL},
        "nics": [{"name": EVIL, EVIL: True, "x": EVIL}],
        "namespaces": {EVIL: EVIL},
        "drop_reasons": {"3": EVIL},
        "tcptrace_version": EVIL,
        "boot_id": EVIL,
        "loader": EVIL,
        "cpus": EVIL,
        "seeded": {"monotonic_ns": 0, "connections": 1, "namespaces": EVIL, "failed": [EVIL]},
    }
    path = tmp_path_factory.mktemp("hostile") / "x\x1b[2J\ny.tct"
    return synthetic.write_trace(
        path, np.concatenate(records), event(Kind.DROP, reason=3), losses={EVIL: 1}, header_changes=evil
    )


@pytest.mark.parametrize(
    "args",
    [
        ["info"],
        ["info", "--json"],
        ["summary"],
        ["summary", "--json"],
        ["connections"],
        ["connections", "--format", "csv"],
        ["connections", "--format", "ndjson"],
    ],
)
def test_hostile_names_never_reach_the_terminal(hostile: Path, args: list[str]) -> None:
    done = tcptrace(*args, hostile)
    one_line(done, 5)
    for stream in (done.stdout, done.stderr):
        assert all(line.isprintable() for line in stream.split("\n"))
        assert "\u202e" not in stream
    assert "Traceback" not in done.stderr
    assert done.stdout.count("script") >= 1
    if args == ["connections"]:
        assert len(done.stdout.splitlines()) == 7


def on_a_terminal(*args: object, **env: str) -> str:
    """What the command writes when its stdout is a terminal."""
    leader, follower = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [*TCPTRACE, *map(str, args)],
        stdout=follower,
        stderr=follower,
        env=clean | {"TERM": "xterm-256color"} | env,
    )
    os.close(follower)
    chunks = []
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(leader)
    process.wait(timeout=60)
    return b"".join(chunks).decode()


def test_colour_only_on_a_terminal_that_wants_it(traces: Path) -> None:
    good = traces / "good.tct"
    assert ESCAPE.search(on_a_terminal("summary", good))
    assert "\x1b" not in on_a_terminal("summary", good, TERM="dumb")
    assert "\x1b" not in tcptrace("summary", good).stdout
    for args in (["summary", good], ["info", good]):
        bare = on_a_terminal(*args, NO_COLOR="1")
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", bare)
        assert ESCAPE.sub("", bare).replace("\r\n", "\n") == tcptrace(*args).stdout


def test_colours_are_the_only_escapes(hostile: Path) -> None:
    for command in ("info", "summary", "connections"):
        left = ESCAPE.sub("", on_a_terminal(command, hostile))
        assert all(line.isprintable() for line in left.replace("\r\n", "\n").split("\n"))
        assert "\x1b[2J" not in left


@pytest.mark.parametrize(
    "args",
    [["connections"], ["connections", "--format", "csv"], ["connections", "--format", "ndjson"], ["info"]],
)
def test_a_reader_that_leaves_is_no_error(traces: Path, args: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*TCPTRACE, *args, traces / "good.tct"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_one_line(traces: Path) -> None:
    with open("/dev/full", "w") as full:
        for args in (["connections"], ["summary"], ["connections", "--format", "csv"]):
            done = subprocess.run(
                [*TCPTRACE, *args, traces / "good.tct"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
            )
            one_line(done, 1, "No space left on device")


@pytest.mark.parametrize(("args", "code"), [(["summary"], 0), (["nonsense"], 2)])
def test_stderr_that_nobody_can_read_changes_no_exit_code(traces: Path, args: list[str], code: int) -> None:
    command = [*TCPTRACE, *args, *([str(traces / "good.tct")] if code == 0 else [])]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=full, timeout=60)
    assert done.returncode == code
    closed = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(closed, timeout=60).returncode == code


def test_closed_streams_leave_their_descriptors_to_no_file(traces: Path, tmp_path: Path) -> None:
    csv_file = tmp_path / "rows.csv"
    command = [*TCPTRACE, "connections", traces / "lost.tct", "--format", "csv", "-o", csv_file]
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command], timeout=60)
    assert done.returncode == 5  # which says a line on stderr, too
    assert "tcptrace:" not in csv_file.read_text()
    assert len(csv_file.read_text().splitlines()) == 301


@pytest.mark.parametrize(
    "command", [["info"], ["summary"], ["connections"], ["connections", "--format", "csv"]]
)
def test_locales_without_our_characters_still_work(traces: Path, command: list[str]) -> None:
    done = tcptrace(*command, traces / "good.tct", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii() and done.stdout


# ---- bounds ----


def test_100_000_rows_are_summed_up_quickly_in_little_memory(tmp_path: Path) -> None:
    records = synthetic.connections(100_000)
    path = synthetic.write_trace(tmp_path / "big.tct", records, synthetic.events(2000, of=records))
    start = time.monotonic()
    process = subprocess.Popen([*TCPTRACE, "summary", str(path)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert time.monotonic() - start < 5
    assert usage.ru_maxrss < 500_000  # KiB
