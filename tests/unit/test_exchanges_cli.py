"""The real command `exchanges`: formats, notes on stderr, exit codes."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from pyarrow import parquet
from test_cli import one_line, tcptrace
from test_connections import conn
from test_exchanges import MS, turn

from tcptrace.analysis.schema import EXCHANGES
from tcptrace.trace.wire import ExchangeFlag, Kind, Side


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("traces")
    records = synthetic.connections(100)
    turns = synthetic.exchanges(400, of=records)
    synthetic.write_trace(directory / "good.tct", records, exchanges=turns)
    synthetic.write_trace(directory / "lost.tct", records, exchanges=turns, losses={"exchange_ring": 5})
    synthetic.write_trace(directory / "cut.tct", records, exchanges=turns, clean=False)
    (directory / "empty.tct").touch()
    return directory


def lines(tmp_path: Path, *turns: np.ndarray, **kwargs: Any) -> list[str]:
    path = synthetic.write_trace(
        tmp_path / "t.tct", conn(handshake_ns=2 * MS), exchanges=np.concatenate(turns)
    )
    done = tcptrace("exchanges", path)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_tables_of_every_format(traces: Path, tmp_path: Path) -> None:
    good = traces / "good.tct"
    read = list(csv.reader(io.StringIO(tcptrace("exchanges", good, "--format", "csv").stdout)))
    assert read[0] == EXCHANGES.names and len(read) == 401
    made = [
        json.loads(line) for line in tcptrace("exchanges", good, "--format", "ndjson").stdout.splitlines()
    ]
    assert list(made[0]) == EXCHANGES.names and len(made) == 400
    out = tmp_path / "out.parquet"
    done = tcptrace("exchanges", good, "--format", "parquet", "-o", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert out.stat().st_mode & 0o777 == 0o600
    assert parquet.read_table(out).schema.equals(EXCHANGES)
    assert parquet.read_table(out).to_pylist() == made
    one_line(
        tcptrace("exchanges", good, "--format", "parquet", "-o", out), 1, "out.parquet exists", "--force"
    )
    assert tcptrace("exchanges", good, "--format", "parquet", "-o", out, "--force").returncode == 0
    text = tcptrace("exchanges", good).stdout.splitlines()
    assert len(text) == 401 and text[0].split()[:2] == ["ID", "SEQ"]


def test_exit_codes(traces: Path) -> None:
    one_line(tcptrace("exchanges", traces / "lost.tct"), 5, "not complete", "exchange_ring 5")
    one_line(tcptrace("exchanges", traces / "cut.tct"), 5, "truncated")
    one_line(tcptrace("exchanges", traces / "empty.tct"), 4, "empty")
    one_line(tcptrace("exchanges", traces / "good.tct", "--format", "parquet"), 2, "-o FILE")
    one_line(tcptrace("exchanges"), 2, "TRACE")


def test_a_line_has_the_groups_and_the_remote_end(tmp_path: Path) -> None:
    title, got = lines(tmp_path, turn(nagle_ns=MS, release_ns=45 * MS))
    assert title.split()[-3:] == ["REQUEST", "ANSWER", "NOTES"]
    assert "192.0.2.2:443" in got and "~2.00 ms" in got and "~4.00 ms" in got
    assert got.endswith("delayed ACK")


def test_a_group_of_which_a_part_is_unknown_says_so(tmp_path: Path) -> None:
    _, got, unknown = lines(tmp_path, turn(kernel_rx_ns=-1), turn(seq=1, kernel_rx_ns=-1, kernel_tx_ns=-1))
    assert "≥1.00 ms" in got
    assert "≥" not in unknown and "–" in unknown


def test_a_server_has_a_dash_for_the_network(tmp_path: Path) -> None:
    _, got = lines(tmp_path, turn(side=Side.SERVER))
    assert got.count("–") == 3 and "~" not in got


def test_notes_name_what_happened(tmp_path: Path) -> None:
    flags = ExchangeFlag.HOLD_AMBIGUOUS | ExchangeFlag.RTO | ExchangeFlag.TLP
    _, got = lines(tmp_path, turn(flags=flags, retransmits=2, loss_recovery_ns=MS))
    assert got.endswith("Nagle or cork, sent again (rto+tlp)")


def test_exchanges_without_a_row_are_said(tmp_path: Path) -> None:
    several = turn(kind=Kind.EXCHANGES, summed=1200)
    path = synthetic.write_trace(tmp_path / "t.tct", conn(), exchanges=np.concatenate([turn(), several]))
    one_line(tcptrace("exchanges", path), 0, "1,200 exchanges of 1,201 have no row")


def test_a_recording_without_a_budget_says_why_there_are_none(tmp_path: Path) -> None:
    path = synthetic.write_trace(
        tmp_path / "t.tct", conn(), header_changes={"options": {"mode": "lifecycle"}}
    )
    one_line(tcptrace("exchanges", path), 0, "--mode lifecycle")
    idle = synthetic.write_trace(tmp_path / "i.tct", conn(), header_changes={"options": {"mode": "budget"}})
    assert tcptrace("exchanges", idle).stderr == ""


def test_help_names_every_column_and_exit_code() -> None:
    done = tcptrace("exchanges", "--help")
    assert done.returncode == 0
    assert "Exit codes:" in done.stdout and "Examples:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    for name in EXCHANGES.names:
        assert re.search(rf"\b{name}\b", done.stdout), name


@pytest.mark.parametrize("args", [["exchanges"], ["exchanges", "--format", "csv"]])
def test_exchanges_do_not_wait_for_pandas(traces: Path, args: list[str]) -> None:
    command = [*args, str(traces / "good.tct")]
    code = f"import sys; from tcptrace.cli import run; run({command!r}); assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True, timeout=60)


def test_analysis_does_without_pandas(traces: Path) -> None:
    code = f"""
import sys
from tcptrace.analysis.connections import connections
from tcptrace.analysis.exchanges import sums
from tcptrace.analysis.join import join
from tcptrace.trace.reader import read
trace = read({str(traces / "good.tct")!r})
sums(trace, connections(trace))
join([trace, trace])
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
