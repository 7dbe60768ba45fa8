"""The arithmetic behind the tables of `make bench`."""

import os
from pathlib import Path

import pytest

import tables
from load import BULK, PINGPONG, STORM, Kind, Load
from tracers import Seen, Traced


def load(rate: float, cpu: float = 50.0, busy: float = 0.5, kind: Kind = STORM) -> Load:
    """1000 connections of one turn each, or one of 1000 turns, at a rate, with so many us of CPU each."""
    connections = 1000 if kind is STORM else 1
    return Load(kind, 1, connections, 1000, 2000, 1000 / rate, cpu * 1e-3, busy_share=busy, own_share=0.4)


def traced(rate: float, rows: int, lost: dict[str, int] | None, turns: int | None = None) -> Traced:
    seen = Seen(rows=rows, turns=turns, single=turns and turns // 2, lost=lost, trace_bytes=rows * 90)
    return Traced(load(rate, 55.0), start_s=0.5, cpu_s=0.2, cpu_load_s=0.01, seen=seen)


def test_ratios_are_taken_within_a_round() -> None:
    rounds = [
        {"untraced": load(100), "tcptrace": traced(95, 2000, {"total": 0})},
        {"untraced": load(200), "tcptrace": traced(180, 2000, {"total": 0})},
        {"untraced": load(50), "tcptrace": traced(49, 2000, {"total": 0})},
    ]
    result = tables.results(rounds)["tcptrace"]
    assert result["rate_ratio"] == pytest.approx({"median": 0.95, "min": 0.9, "max": 0.98})
    assert result["cpu_ratio"]["median"] == pytest.approx(1.1)
    assert result["rows_per_end"]["median"] == 1
    assert result["tracer_cpu_us"]["median"] == pytest.approx(10)
    assert result["turns_per_end"] is None and result["single_share"] is None


def test_losses_are_added_up_by_cause_and_unknown_is_not_zero() -> None:
    rounds = [
        {
            "untraced": load(1),
            "tcptrace": traced(1, 1990, {"total": 10, "connection_ring": 10}),
            "peer": traced(1, 1, None),
        },
        {
            "untraced": load(1),
            "tcptrace": traced(1, 1995, {"total": 5, "connection_ring": 5}),
            "peer": traced(1, 1, None),
        },
    ]
    results = tables.results(rounds)
    assert results["tcptrace"]["lost"] == {"total": 15, "connection_ring": 15}
    assert tables.lost_text(results["tcptrace"]["lost"]) == "connection_ring 15"
    assert results["peer"]["lost"] is None
    assert tables.lost_text(None) == "not counted"
    assert tables.lost_text({"total": 0}) == "0"


def test_a_peer_that_missed_rounds_is_compared_with_its_own_rounds_only() -> None:
    rounds = [{"untraced": load(100), "peer": traced(50, 2000, None)}, {"untraced": load(1000)}]
    assert tables.results(rounds)["peer"]["rate_ratio"]["median"] == 0.5


def test_what_neither_load_nor_tracer_used_is_disturbance() -> None:
    cpus = os.cpu_count() or 1
    run = Traced(load(1000, busy=0.9), start_s=0, cpu_s=1, cpu_load_s=0.3 * cpus, seen=Seen(rows=0))
    assert tables.elsewhere(run) == pytest.approx(0.2)
    assert tables.disturbance({"untraced": load(1000, busy=0.45), "peer": run}) == pytest.approx(0.2)


def test_each_load_is_counted_in_its_own_unit() -> None:
    assert load(100).units == load(100, kind=PINGPONG).units == 1000
    bulk = load(100, kind=BULK)
    assert bulk.units == pytest.approx(0.002) and bulk.rate == pytest.approx(0.0002)


def test_turns_count_whether_they_have_a_record_or_are_in_a_sum() -> None:
    rounds = [{"untraced": load(1), "tcptrace": traced(1, 2000, {"total": 0}, turns=2000)}]
    result = tables.results(rounds)["tcptrace"]
    assert result["turns_per_end"]["median"] == 1
    assert result["single_share"]["median"] == 0.5


def test_a_broken_bound_a_loss_and_a_missing_turn_are_named() -> None:
    def measured(rate: float, lost: int, turns: int) -> dict[str, dict[str, object]]:
        rounds = [{"untraced": load(100), "tcptrace": traced(rate, 2000, {"ring": lost}, turns)}]
        return {"storm": {"results": tables.results(rounds)}}

    assert tables.broken(measured(89, 0, 2000), "budget") == []
    assert tables.broken(measured(89, 0, 0), "lifecycle") == ["storm: 0.890 of untraced, bound 0.93"]
    assert tables.broken(measured(87, 3, 1999), "budget") == [
        "storm: 0.870 of untraced, bound 0.88",
        "storm: lost ring 3",
        "storm: only 0.9995 of the turns were counted",
    ]


def test_only_the_marked_section_of_a_document_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "overhead.md"
    path.write_text("a\n<!-- x: begin, written by make bench -->\nold\n<!-- x: end -->\nb\n")
    tables.put_into(path, r"| new \1 |", "x")
    assert (
        path.read_text() == "a\n<!-- x: begin, written by make bench -->\n| new \\1 |\n<!-- x: end -->\nb\n"
    )
    with pytest.raises(ValueError, match="no section 'y'"):
        tables.put_into(path, "", "y")
