"""The arithmetic behind the comparison with load tools."""

import numpy as np
import pyarrow as pa
import pytest

from latency import compare, of_transactions
from services import Told
from tcptrace.errors import TcptraceError


def turns(count: int, *, first: int = 0) -> pa.Table:
    """A turn each us, which takes 400 ns, 100 of them unattributed."""
    numbers = np.arange(first, first + count)
    return pa.table(
        {
            "seq": numbers,
            "started_ns": numbers * 1000,
            "total_ns": np.full(count, 400),
            "unattributed_ns": np.full(count, 100),
        }
    )


def test_a_transaction_is_its_turns_and_the_time_between_them_without_the_start_up() -> None:
    assert of_transactions(turns(10), 3).tolist() == [2400, 3000, 3000]
    assert of_transactions(turns(4), 1).tolist() == [400, 1000, 1000]


def test_turns_that_are_no_whole_transactions_are_refused() -> None:
    with pytest.raises(TcptraceError, match="7 turns are no transactions of 3"):
        of_transactions(turns(8), 3)
    gap = pa.concat_tables([turns(4), turns(3, first=5)])
    with pytest.raises(TcptraceError, match="no transactions"):
        of_transactions(gap, 3)


def test_a_comparison_fails_by_the_mean_or_by_the_count() -> None:
    table = turns(10)
    near = compare("near", Told(10, 370.0), table, table["total_ns"].to_numpy())
    assert near.difference == pytest.approx(400 / 370 - 1) and not near.failure
    assert near.unattributed == 0.25
    far = compare("far", Told(10, 360.0), table, table["total_ns"].to_numpy())
    assert "far: 0.4 us recorded" in far.failure and "+11.1%" in far.failure
    few = compare("few", Told(11, 400.0), table, table["total_ns"].to_numpy())
    assert few.failure == "few: 10 recorded, 11 done"
