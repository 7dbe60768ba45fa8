"""What `info` says of exchanges: those with a record each, those in sums alone, and what was lost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from tcptrace.cli import run
from tcptrace.trace.wire import Kind
from tcptrace.trace.writer import TraceWriter

ROWS = synthetic.connections(30)


def info(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and text."""
    code = run(["info", "--json", str(path)])
    found = json.loads(capsys.readouterr().out)
    assert run(["info", str(path)]) == code
    return code, found, capsys.readouterr().out


def turns(single: int, *summed: int) -> np.ndarray:
    rows = synthetic.exchanges(single + len(summed), of=ROWS)
    rows["kind"][single:], rows["summed"][single:] = Kind.EXCHANGES, summed
    return rows


def test_exchanges_with_a_record_each_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = synthetic.write_trace(tmp_path / "a.tct", ROWS, exchanges=turns(1234))
    code, found, text = info(path, capsys)
    assert (code, found["exchanges"]) == (0, {"rows": 1234, "summed": 0, "missing": 0, "sampling": 1.0})
    assert "  1,234 exchanges with a record each\n" in text


def test_exchanges_in_sums_are_counted_with_the_sampling_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = synthetic.write_trace(tmp_path / "a.tct", ROWS, exchanges=turns(250, 700, 50))
    code, found, text = info(path, capsys)
    # no loss: their time is in the sums
    assert code == 0
    assert found["exchanges"] == {"rows": 250, "summed": 750, "missing": 0, "sampling": 0.25}
    assert "250 exchanges with a record each; 750 more in sums alone" in text
    assert "(25 % have one)" in text


def test_lost_sums_are_a_loss_and_their_exchanges_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.tct"
    counts = {"single": 3, "summed": 97}
    with TraceWriter(path, synthetic.header()) as writer:
        writer.add(turns(3))
        writer.close(synthetic.trailer(0, 0, {"exchange_ring": 4}, counts=counts))
    code, found, text = info(path, capsys)
    assert (code, found["lost"]) == (5, {"total": 4, "exchange_ring": 4})
    assert found["exchanges"] == {"rows": 3, "summed": 0, "missing": 97, "sampling": 0.03}
    assert "lost 4 exchange_ring: sums over exchanges found their ring buffer full" in text
    assert "3 exchanges with a record each; 97 more missing (3 % have one)" in text


def test_what_a_cut_file_misses_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = synthetic.write_trace(tmp_path / "a.tct", exchanges=turns(3), clean=False)
    code, found, text = info(path, capsys)
    assert (code, found["exchanges"]["missing"], found["exchanges"]["sampling"]) == (5, None, 1)
    assert "  3 exchanges with a record each\n" in text


@pytest.mark.parametrize("counts", [None, 7, {"single": 1}, {"single": 2, "summed": "x"}, {"summed": -1}])
def test_odd_counts_are_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str], counts: object) -> None:
    path = tmp_path / "a.tct"
    with TraceWriter(path, synthetic.header()) as writer:
        writer.add(turns(3))
        writer.close(synthetic.trailer(0, 0, counts=counts))
    assert info(path, capsys)[1]["exchanges"] == {"rows": 3, "summed": 0, "missing": None, "sampling": 1}


def test_without_exchanges_there_is_no_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = synthetic.write_trace(tmp_path / "a.tct", ROWS)
    code, found, text = info(path, capsys)
    assert (code, found["exchanges"]) == (0, {"rows": 0, "summed": 0, "missing": 0, "sampling": None})
    assert "with a record each" not in text
