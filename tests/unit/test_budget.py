"""Budgets against sums made by hand: they add up exactly, and say over which exchanges they are."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turn_rows import MS, START, accepted, conn, conns, rows, server, summed, sums, turn

from tcptrace.analysis.budget import AT, Budget, Group, around, budgets, pieces, split
from tcptrace.analysis.groups import label
from tcptrace.analysis.stages import STAGES

NONE = sums()


def grouped(
    table: pa.Table, *args: Any, summed: pa.Table = NONE, connections: pa.Table | None = None, **kwargs: Any
) -> list[Group]:
    ends = (
        conns(conn(1), accepted(2), conn(3, remote_addr="10.0.0.9")) if connections is None else connections
    )
    found = budgets(pieces(table, summed), ends, *args, **kwargs)
    json.dumps([group.json() for group in found], allow_nan=False)
    return found


def adds_up(budget: Budget) -> bool:
    parts = [*budget.stages.values(), budget.unattributed_ns]
    groups = budget.groups.values()
    return sum(ns or 0 for ns in parts) == sum(ns or 0 for ns in groups) == budget.total_ns


def test_the_mean_is_of_all_exchanges_and_adds_up() -> None:
    (one,) = grouped(rows(turn(nagle_ns=40 * MS), turn(network_ns=2 * MS), turn(7 * MS)))
    assert (one.exchanges, one.rows, one.connections, one.sampling) == (3, 3, 1, 1.0)
    assert one.mean.n == 3
    assert one.mean.total_ns == 16_333_333
    assert one.mean.stages["nagle_ns"] == 13_333_333
    assert one.mean.stages["network_ns"] == 666_667
    assert one.mean.unattributed_ns == 2_333_333
    assert one.mean.stages["cork_ns"] == 0
    assert adds_up(one.mean)


def test_the_mean_includes_exchanges_that_are_in_sums_alone() -> None:
    (one,) = grouped(
        rows(turn(app_ns=10)), summed=sums(summed(3, app_ns=50, network_ns=30, network_exact=True))
    )
    assert (one.exchanges, one.rows, one.sampling) == (4, 1, 0.25)
    assert one.mean.n == 4
    assert one.mean.stages["app_ns"] == 15
    assert (one.mean.exact, one.mean.estimated) == (3, 1)
    assert one.mean.total_ns == 23 and adds_up(one.mean)  # 22.5, to the nearest


def test_a_group_that_is_in_sums_alone_has_a_mean_and_no_percentiles() -> None:
    (one,) = grouped(rows(), summed=sums(summed(8, app_ns=80)))
    assert list(one.budgets) == ["mean"]
    assert one.mean.total_ns == 10
    assert one.json()["p50"] is None and one.json()["max"] is None


def test_a_stage_that_nobody_knows_is_null_and_one_that_some_know_says_how_many_do_not() -> None:
    (one,) = grouped(
        rows(turn(100, wakeup_ns=None, app_ns=10), turn(100, wakeup_ns=None, app_ns=None)),
        summed=sums(summed(2, total_ns=200, wakeup_ns=None, app_ns=20)),
    )
    assert one.mean.stages["wakeup_ns"] is None
    assert one.mean.stages["app_ns"] == 8  # 7.5: what is left over goes to what was cut most
    assert one.mean.missing == {"app_ns": 1}
    assert one.mean.groups["scheduler"] is None and one.mean.groups["application"] == 8
    assert adds_up(one.mean)


def test_exactness_of_the_network_is_counted() -> None:
    (one,) = grouped(
        rows(
            turn(network_ns=5, network_exact=True),
            turn(network_ns=5),
            turn(network_ns=5),
            turn(9, network_ns=None),
        )
    )
    assert (one.mean.exact, one.mean.estimated, one.mean.n) == (1, 2, 4)
    assert one.mean.missing == {"network_ns": 1}


def test_sides_are_never_mixed_and_what_an_end_does_not_have_is_null() -> None:
    client, serving = grouped(rows(turn(app_ns=5), server(app_ns=3)), [])
    assert (client.side, serving.side) == ("client", "server")
    assert client.key == {"side": "client"}
    assert serving.mean.stages["network_ns"] is None and serving.mean.groups["network"] is None
    assert serving.mean.missing == {}


def test_percentiles_are_means_of_the_exchanges_around_them() -> None:
    turns = [turn(1000 * (n + 1), seq=n, app_ns=n % 10) for n in range(1000)]
    (one,) = grouped(rows(*np.random.default_rng(1).permutation(np.array(turns)).tolist()))
    assert list(one.budgets) == list(AT)
    p50, p90, p99, most = (one.budgets[at] for at in AT[1:])
    assert (p50.value_ns, p90.value_ns, p99.value_ns, most.value_ns) == (500_000, 900_000, 990_000, 1_000_000)
    assert (p50.n, p90.n, p99.n, most.n) == (101, 101, 11, 1)
    assert (p50.total_ns, p90.total_ns, p99.total_ns) == (500_000, 900_000, 990_000)
    assert most.total_ns == 1_000_000 and most.stages["app_ns"] == 9
    assert all(adds_up(budget) for budget in one.budgets.values())


def test_too_few_exchanges_have_no_percentile() -> None:
    for n, there in ((1, ["mean", "p50", "max"]), (9, ["mean", "p50", "max"]), (99, [*AT[:3], "max"])):
        (one,) = grouped(rows(*[turn(5 + seq, seq=seq) for seq in range(n)]))
        assert list(one.budgets) == there


def test_what_a_budget_is_over_is_said_in_words() -> None:
    assert around("mean") == "all exchanges"
    assert around("p50") == "exchanges whose total lies between percentiles 45 and 55"
    assert around("p99") == "exchanges whose total lies between percentiles 98.5 and 99.5"
    assert around("max") == "the slowest exchange"


def test_groups_come_with_most_time_first_and_can_be_limited() -> None:
    table = rows(turn(5, 1), turn(6, 1), turn(100, 3), server(50))
    assert [label(group.key) for group in grouped(table)] == ["10.0.0.9:5000", "10.0.0.1:*", "10.0.0.2:5000"]
    assert len(grouped(table, limit=2)) == 2
    assert grouped(rows()) == []


@pytest.mark.parametrize(
    ("by", "key", "text"),
    [
        ("remote", {"remote_addr": "10.0.0.2", "remote_port": 5000}, "10.0.0.2:5000"),
        ("port", {"port": 5000}, "port 5000"),
        ("role", {"role": "active"}, "active"),
        ("process", {"pid": 4711, "comm": "order-gw"}, "order-gw (4711)"),
        ("namespace", {"netns": 7}, "namespace 7"),
    ],
)
def test_each_fact_groups(by: str, key: dict[str, Any], text: str) -> None:
    (one,) = grouped(rows(turn(5)), (by,))
    assert one.key == {"side": "client", **key}
    assert label(one.key) == text


def test_facts_combine_in_the_order_asked_for() -> None:
    (one,) = grouped(rows(turn(5)), ("process", "time", "port"))
    assert list(one.key) == ["side", "pid", "comm", "from_ns", "to_ns", "port"]
    assert label(one.key) == "port 5000, order-gw (4711)"


def test_a_server_is_grouped_by_the_address_of_its_clients_and_by_its_own_port() -> None:
    ends = conns(accepted(2), accepted(4, remote_port=40002))
    table = rows(server(5), server(6, 4))
    (one,) = grouped(table, connections=ends)
    assert one.key == {"side": "server", "remote_addr": "10.0.0.1", "remote_port": None}
    assert one.connections == 2
    (one,) = grouped(table, ("port",), connections=ends)
    assert one.key["port"] == 5000


@pytest.mark.parametrize(
    ("local", "remote", "service"),
    [(40000, 443, 443), (443, 40000, None), (None, 443, 443), (80, None, None)],
)
def test_the_service_of_a_connection_of_unknown_role_is_at_the_lower_port(
    local: int | None, remote: int | None, service: int | None
) -> None:
    end = conn(1, role="unknown", local_port=local, remote_port=remote)
    (one,) = grouped(rows(turn(5)), connections=conns(end))
    assert one.key["remote_port"] == service


def test_exchanges_of_connections_without_a_row_have_null_keys() -> None:
    (one,) = grouped(rows(turn(5, 77), turn(5, 78)), ("remote", "process"), connections=conns())
    assert one.key == {"side": "client", "remote_addr": None, "remote_port": None, "pid": None, "comm": None}
    assert label(one.key) == "–, –"


def test_an_unknown_owner_is_one_group_with_what_is_null_alike() -> None:
    ends = conns(conn(1, pid=None, comm=None))
    assert len(grouped(rows(turn(5, 1), turn(5, 77)), ("process",), connections=ends)) == 1


def test_time_goes_in_bins_of_wall_clock_in_order() -> None:
    table = rows(*[turn(9, started_ns=START + 7 * 10**8 * n) for n in (4, 0, 1)])
    found = grouped(table, ("time",), bin_ns=10**9)
    assert [group.key["from_ns"] - START for group in found] == [0, 2 * 10**9]
    assert [group.exchanges for group in found] == [2, 1]
    automatic = grouped(table, ("time",))
    assert [group.key["to_ns"] - group.key["from_ns"] for group in automatic] == [10**8] * 3
    assert label(found[0].key) == ""


def test_one_moment_or_none_at_all_is_no_reason_to_fail() -> None:
    (one,) = grouped(rows(turn(5), turn(6)), ("time",))
    assert one.exchanges == 2
    assert grouped(rows(), ("time",)) == []
    (unknown, known) = grouped(rows(turn(5, started_ns=None), turn(6)), ("time",))
    assert unknown.key["from_ns"] is None and known.key["from_ns"] <= START < known.key["to_ns"]


def test_an_exchange_without_a_total_is_in_no_budget() -> None:
    nothing = turn(5) | dict.fromkeys((*STAGES, "unattributed_ns", "total_ns"))
    (one,) = grouped(rows(nothing, turn(7)), summed=sums(nothing | {"exchanges": 4}))
    assert (one.exchanges, one.mean.total_ns) == (1, 7)


def test_sums_beyond_63_bits_are_exact_all_the_same() -> None:
    long = 1 << 61
    (one,) = grouped(rows(*[turn(long + seq, seq=seq, app_ns=long) for seq in range(9)]))
    assert one.mean.total_ns == long + 4 and one.mean.stages["app_ns"] == long
    assert adds_up(one.mean)


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=17), st.integers(1, 10**7))
def test_a_mean_is_split_to_the_nanosecond(parts: list[int], n: int) -> None:
    total, whole = split(sum(parts), parts, n)
    assert total == sum(whole)
    assert abs(total * n - sum(parts)) <= n / 2
    assert all(abs(part - ns * n) < n for part, ns in zip(parts, whole, strict=True))


@given(
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.lists(st.one_of(st.none(), st.integers(0, 10**12)), min_size=15, max_size=15),
            st.integers(0, 10**9),
            st.booleans(),
            st.integers(0, 3),
        ),
        max_size=150,
    )
)
def test_any_budget_adds_up(drawn: list[tuple[int, list[int | None], int, bool, int]]) -> None:
    singles, several = [], []
    for id_, stages, rest, serves, many in drawn:
        known = dict(zip(STAGES, stages, strict=True))
        total = sum(ns or 0 for ns in stages) + rest
        one = turn(total, id_, **known, side="server" if serves else "client")
        if many:
            several.append(one | {"exchanges": many})
        else:
            singles.append(one)
    found = grouped(rows(*singles), summed=sums(*several))
    assert sum(group.exchanges for group in found) == sum(max(1, many) for *_, many in drawn)
    for group in found:
        for budget in group.budgets.values():
            assert adds_up(budget)
            assert budget.exact + budget.estimated <= budget.n
            assert all(ns is None or ns >= 0 for ns in budget.stages.values())
            if budget.value_ns is not None:
                assert budget.value_ns >= 0
